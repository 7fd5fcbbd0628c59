"""Repeated augmentation (Hoffer et al., 2020, "Augment Your Batch"): several copies of an image in each batch.

Every copy has its own random crop, its own operations and its own draws on the device. An epoch has as many batches as
without repetition, so it has only `1 / repeats` of the images, as DeiT (Touvron et al., 2021, three copies) counts it.
"""

from typing import Any

from aa_flax.root_logger import left_alone

with left_alone():
    import grain


def distinct_position(position: int, batch_size: int, repeats: int) -> int:
    """Return the position, in the order of distinct images, of the image at `position` of the repeated order.

    A batch has d = batch_size / repeats distinct images, all of them in order, then all of them again, and so on:
    position r d + j of batch s has image s d + j, for the copies r = 0 ... repeats - 1. Copies of an image are d
    positions apart, so that neighbours, which mixup and cutmix pair, are different images if d is at least 2.
    """
    step, offset = divmod(position, batch_size)
    distinct = batch_size // repeats
    return step * distinct + offset % distinct


class Repeated(grain.MapDataset):
    """The examples of `parent`, repeated so that each batch has `repeats` copies of batch_size / repeats of them."""

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
