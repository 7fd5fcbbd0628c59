"""Repeated augmentation (Hoffer et al., 2020, "Augment Your Batch"): several copies of an image in each batch.

Every copy has its own random crop, its own operations and its own draws on the device. An epoch has as many batches as
without, so it sees `1 / repeats` of the images, as DeiT (Touvron et al., 2021, with three copies) counts it.
"""

from typing import Any

import grain


def distinct_position(position: int, batch_size: int, repeats: int) -> int:
    """Where in the order of distinct images lies what `position` of the repeated order holds.

    A batch has d = batch_size / repeats distinct images, once in their order, then once more, and so on: position
    r d + j of batch s holds image s d + j, for copies r = 0 ... repeats - 1. So copies lie d apart: neighbours, which
    mixup and cutmix pair, are different images where d is at least 2.
    """
    step, offset = divmod(position, batch_size)
    distinct = batch_size // repeats
    return step * distinct + offset % distinct


class Repeated(grain.MapDataset):
    """The examples of `parent`, each batch of which is made of `repeats` copies of a part."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, repeats: int):
        super().__init__(parent)
        self._batch_size, self._repeats = batch_size, repeats

    def __len__(self) -> int:
        return len(self._parent) * self._repeats

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return self.slice(position)
        # Positions beyond the length are those of later epochs, here and in the parent: both hold whole batches.
        return self._parent[distinct_position(position, self._batch_size, self._repeats)]
