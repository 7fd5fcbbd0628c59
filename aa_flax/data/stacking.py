"""Examples put together to batches: each image is copied once, as soon as it is made, into memory that is used again.

Memory is what this saves time on. Images that waited for the others of their batch would each need fresh pages, which
the system clears one by one; so would the batch.
"""

import collections
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Num

from aa_flax.data.images import put_on_canvas
from aa_flax.root_logger import left_alone

with left_alone():
    import grain

_LEARNT_FROM = 16 << 20  # bytes
_KEPT = 4  # pieces of memory that wait for their next batch; in a steady run one is given back for each one taken


class Stacked(grain.MapDataset):
    """Batches of `batch_size` examples that follow each other in `parent`; what is left at its end is left out.

    The values of all examples are arrays [b, ...] by name. The images of batch i have the size (height, width) that
    `size_of(i)` returns; one that is smaller lies in the upper left corner, on black. So do `maps`, values for each
    pixel [h, w], on the value of their padding.

    The memory of a batch's images is taken again once neither the array nor anything that refers to it, such as a view
    or an array of JAX, is left.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        batch_size: int,
        size_of: Callable[[int], tuple[int, ...]],
        maps: Mapping[str, int] = MappingProxyType({}),
    ):
        super().__init__(parent)
        self._batch_size, self._size_of, self._maps = batch_size, size_of, maps
        self._free: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)
        _keep_freed_memory()

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return self.slice(position)
        images, others = None, []
        for place in range(self._batch_size):
            example = dict(self._parent[position * self._batch_size + place])
            image = example.pop("image")
            if images is None:
                images = self._images((self._batch_size, *self._size_of(position), image.shape[-1]), image.dtype)
            put_on_canvas(image, images[place])
            others.append(example)
        assert images is not None
        columns = {name: [each[name] for each in others] for name in others[0]}
        return {"image": images} | {
            name: self._padded(name, values, images.shape[1:3]) if name in self._maps else np.stack(values)
            for name, values in columns.items()
        }

    def _padded(self, name: str, values: list[Any], size: tuple[int, ...]) -> np.ndarray:
        stacked = np.full((len(values), *size), self._maps[name], values[0].dtype)
        for place, value in zip(stacked, values, strict=True):
            place[: value.shape[0], : value.shape[1]] = value
        return stacked

    def _images(self, shape: tuple[int, ...], dtype: np.dtype) -> Num[np.ndarray, "b *space c"]:
        """Return an array with arbitrary values."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        if memory.size < size:  # where sizes differ, what is kept is soon enough for the largest
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lent(memory, self._free))[:size].view(dtype).reshape(shape)


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of an image for the next image, instead of returning it to the system.

    It keeps up to twice the size of the largest block that was freed so far, if that is no more than 32 MB: see
    M_TRIM_THRESHOLD in mallopt(3). The block is never touched, so it takes no memory. Other libraries are not affected.
    """
    np.empty(_LEARNT_FROM, np.uint8)


class _Lent:
    """Memory of an array, whose base this is, until the last reference to it is gone."""

    def __init__(self, memory: np.ndarray, free: collections.deque[np.ndarray]):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)
