"""Sizes of the attention kernel: padding, tiles, memory and costs."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.ops.resampling import bilinear_weights

LANES, SUBLANES = 128, 8
_LARGEST_PIECE = 32  # channels of 128 images that are turned at a time
_WHOLE = 1024  # h*w up to which all keys are one tile
_LARGE_TILE = 512
_SMALLEST_VMEM, _LARGEST_VMEM = 16 << 20, 128 << 20
# VMEM of a core, as jax.experimental.pallas.tpu.get_tpu_info reports it; chips not named here have the largest
_VMEM = {
    **dict.fromkeys(("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite"), 16 << 20),
    **dict.fromkeys(("TPU v5", "TPU v5p", "TPU7", "TPU7x"), 64 << 20),
}


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `number`."""
    return -(-number // multiple) * multiple


def fills_lanes(channels: int) -> bool:
    """Return whether the compiler is expected to put a map's channels on lanes, and not its images.

    It decides for a network as a whole. Networks double their width from stage to stage: those with 128, 256 and 512
    channels fill lanes in each stage. Wide-ResNet's 160 and 320 channels do not, and its 640 are laid out like those.
    """
    tiles, rest = divmod(channels, LANES)
    return rest == 0 and tiles & (tiles - 1) == 0


@dataclass(frozen=True)
class Shape:
    """One attention function over a map, with the projections around it.

    Locations of the map lie on lanes, depths on sublanes. The rows of a head are its queries, keys and values, each
    padded to a multiple of 8; the row after the values is all ones, so that the product of values and the softmax's
    numerators holds the denominator too.
    """

    height: int
    width: int
    num_heads: int
    key_depth: int  # per head
    value_depth: int  # per head
    in_features: int
    out_features: int
    scale: float
    positions: bool
    dtype: Any
    images: int = 1  # in a block: 1, or 8 on sublanes, or 128 on lanes
    upsampled: tuple[int, int] | None = None  # (height, width) of the result, if other than the map's
    all_features: int = 0  # of the map to whose last channels the result is added, 0 without one
    normalized: bool = False  # whether a factor and a summand for each channel and a ReLU precede the projection

    @property
    def places(self) -> int:
        """The number of locations of the map, h*w."""
        return self.height * self.width

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the result."""
        return self.upsampled or (self.height, self.width)

    @property
    def out_places(self) -> int:
        """The number of locations of the result, h*w."""
        return math.prod(self.size)

    @property
    def turned(self) -> bool:
        """Return whether images lie on lanes: maps are [locations, channels, images] in memory."""
        return self.images == LANES

    @property
    def takes_last_tile(self) -> bool:
        """Return whether the result's gradient is read from the gradient of the whole map that the result is added to.

        It is then in the last 128 channels of that gradient.
        """
        whole = self.all_features > 0 and self.all_features % LANES == 0
        return whole and self.images == SUBLANES and self.out_features <= LANES

    @property
    def pack(self) -> int:
        """The count of numbers in a word of 32 bits."""
        return 4 // jnp.dtype(self.dtype).itemsize

    @property
    def out_rows(self) -> int:
        """The number of rows of an image's result on the chip."""
        return round_up(self.out_features, SUBLANES * self.pack) if self.turned else self.out_features

    @property
    def key_rows(self) -> int:
        """The number of rows of a head's queries, and of its keys."""
        return round_up(self.key_depth, SUBLANES)

    @property
    def value_rows(self) -> int:
        """The number of rows of a head's values, with the row of ones."""
        return round_up(self.value_depth + 1, SUBLANES)

    @property
    def rows(self) -> int:
        """The number of rows of a head."""
        return 2 * self.key_rows + self.value_rows

    @property
    def axes(self) -> tuple[int, ...]:
        """The lengths of the axes that have relative positions: width, then height."""
        return (self.width, self.height) if self.positions else ()

    @property
    def folded_rows(self) -> int:
        """The number of rows of a folded query: itself, its logits with each column and each row, ones."""
        return self.key_rows + sum(round_up(length, SUBLANES) for length in self.axes) + SUBLANES

    def table_rows(self, length: int) -> int:
        """Return the number of rows of a relative table for an axis of `length`."""
        return round_up(2 * length - 1, SUBLANES)

    @property
    def single_tile(self) -> bool:
        """Return whether all keys are one tile, so that no online softmax is needed."""
        return self.places <= _WHOLE

    @property
    def lanes(self) -> int:
        """The number of lanes of a map: h*w, padded."""
        return round_up(self.places, LANES if self.single_tile else _LARGE_TILE)

    @property
    def out_lanes(self) -> int:
        """The number of lanes of the result: its h*w, padded."""
        return round_up(self.out_places, LANES) if self.upsampled else self.lanes

    @property
    def key_tile(self) -> int:
        """The number of keys of a tile."""
        return round_up(self.places, 16) if self.single_tile else _LARGE_TILE

    @property
    def key_tiles(self) -> int:
        """The number of tiles of keys."""
        return 1 if self.single_tile else self.lanes // _LARGE_TILE

    @property
    def query_tile(self) -> int:
        """Return the number of queries of a tile, a divisor of `lanes`.

        A tile has at most 2**18 logits, or 2**16 if products take several passes. Larger tiles make longer programs,
        which take long to compile.
        """
        largest = (1 << (18 if self.precision is None else 16)) // self.key_tile
        fitting = [t for t in range(LANES, self.lanes + 1, LANES) if self.lanes % t == 0 and t <= largest]
        return max(fitting, default=LANES)

    @property
    def query_tiles(self) -> int:
        """The number of tiles of queries."""
        return self.lanes // self.query_tile

    @property
    def group(self) -> int:
        """The number of heads that are projected together; 1 on large maps, whose projections would fill VMEM."""
        return self.num_heads if self.single_tile else 1

    @property
    def piece(self) -> int:
        """The number of channels of a piece (`turning.py`), a divisor of `in_features` that makes whole tiles."""
        return next(size for size in (_LARGEST_PIECE, 16, 8) if self.in_features % size == 0)

    @property
    def can_be_turned(self) -> bool:
        """Return whether the compiler puts images on lanes, and channels of map and result fill tiles of words."""
        whole = self.in_features % (SUBLANES * self.pack) == 0 and self.out_features % SUBLANES == 0
        return whole and not fills_lanes(self.in_features)

    @property
    def precision(self) -> jax.lax.Precision | None:
        """The precision of every product; in float32 it takes several passes of the matrix unit."""
        return jax.lax.Precision.HIGHEST if self.dtype == jnp.float32 else None

    @cached_property
    def key_positions(self) -> np.ndarray:
        """Return the rows of a folded key below the key itself, [folded_rows - key_rows, lanes].

        They are one-hot in the key's column and in its row of the map; one more row takes locations outside the map out
        of the softmax.
        """
        place = np.arange(self.lanes)
        inside = place < self.places
        parts = [
            (np.arange(round_up(length, SUBLANES))[:, None] == coordinate) & inside
            for length, coordinate in zip(self.axes, (place % self.width, place // self.width), strict=False)
        ]
        outside = np.zeros((SUBLANES, self.lanes))
        outside[0] = np.where(inside, 0.0, -1e30)
        return np.concatenate([*parts, outside]).astype(np.float32)

    @cached_property
    def interpolation(self) -> np.ndarray:
        """Return the bilinear weights of the map's locations in those of the result, [lanes, out_lanes].

        They interpolate as `aa_flax.ops.resize_bilinear` does.
        """
        assert self.upsampled is not None
        axes = zip((self.height, self.width), self.upsampled, strict=True)
        matrix = np.kron(*(bilinear_weights(*lengths) for lengths in axes)).T
        return np.pad(matrix, ((0, self.lanes - self.places), (0, self.out_lanes - self.out_places)))

    @cached_property
    def shifts(self) -> np.ndarray:
        """Return the shifts of each location, integers [8, lanes]: row 0 is w-1-ix, row 1 is h-1-iy."""
        place = np.minimum(np.arange(self.lanes), self.places - 1)
        rows = np.zeros((SUBLANES, self.lanes), np.int32)
        rows[0] = self.width - 1 - place % self.width
        rows[1] = self.height - 1 - place // self.width
        return rows

    def vmem_bytes(self, *, backward: bool) -> int:
        """Return roughly what a pass needs on the chip: each block twice (the next is being copied), scratch, tiles."""
        item, lanes = jnp.dtype(self.dtype).itemsize, self.lanes
        features = round_up(self.in_features, LANES)
        maps = lanes * self.images * (self.in_features if self.turned else features)
        results = item * self.out_lanes * round_up(self.out_features, 16)
        if self.turned:
            blocks = item * maps + LANES * results + 2 * item * LANES**2 * _LARGEST_PIECE
        else:
            blocks = 2 * item * maps * (1 + backward) + 4 * maps * (self.images > 1) + 2 * results
        if backward and self.takes_last_tile:
            blocks += LANES * self.images * (2 * item * self.out_places + 4 * self.out_lanes)
        weights = (item + 4 * backward) * self.num_heads * self.rows * features * 2
        weights += 2 * item * lanes * self.out_lanes * (self.upsampled is not None)
        scratch = 4 * lanes * (self.group * self.rows * (1 + backward) + self.out_features + features * backward)
        folded = lanes * (item * (self.folded_rows + self.value_rows) + 2 * item * self.folded_rows)
        tiles = self.key_tile * self.query_tile * (4 * (2 + 3 * backward) + 2 * item)
        return blocks + weights + scratch + folded + tiles

    def fits(self, device_kind: str = "") -> bool:
        """Return whether the VMEM of a chip, by default of the largest, holds a block of images."""
        capacity, needed = _VMEM.get(device_kind, _LARGEST_VMEM), self.vmem_bytes(backward=True)
        if self.images > 1:
            return needed * 5 // 4 <= capacity
        return needed <= capacity and self._request(backward=True) <= _LARGEST_VMEM * 7 // 8

    def vmem_limit(self, *, backward: bool) -> int:
        """Return the bytes of VMEM to request from the compiler."""
        return max(self._request(backward=backward), _SMALLEST_VMEM)

    def _request(self, *, backward: bool) -> int:
        needed = self.vmem_bytes(backward=backward)
        return round_up(needed * 5 // 4 if self.turned else needed * 3 // 2, 1 << 20)

    def cost(self, batch: int, *, backward: bool) -> tuple[int, int]:
        """Return the floating-point operations and the exponentials of one pass over a batch, padding not counted."""
        places, heads = self.places, self.num_heads
        projection = self.in_features * heads * (2 * self.key_depth + self.value_depth)
        folded = self.key_depth + sum(self.axes)
        tables = self.key_depth * sum(2 * length - 1 for length in self.axes)
        output = self.out_features * heads * self.value_depth
        output += self.out_features * self.out_places * (self.upsampled is not None)
        if backward:
            # Projections: recomputed, gradients of input and kernel. Logits: recomputed, gradients of queries and keys.
            # Weighted values: recomputed, gradients of values and weights. Large maps compute their logits twice.
            products = places * heads * ((2 + (not self.single_tile)) * folded + self.key_depth + 3 * self.value_depth)
            multiply_adds = 3 * projection + products + 3 * heads * tables + 2 * output
        else:
            multiply_adds = projection + heads * (places * (folded + self.value_depth) + tables) + output
        exponentials = batch * heads * places * places * (1 + (backward and not self.single_tile))
        return 2 * batch * places * multiply_adds, exponentials

    def check(self, device_kind: str = "") -> None:
        """Raise a TypeError for a dtype that the kernel does not know, a ValueError for a map too large for a chip."""
        if self.dtype not in (jnp.bfloat16, jnp.float32):
            raise TypeError(
                f"implementation 'pallas_tpu' computes in bfloat16 or float32, got {jnp.dtype(self.dtype).name}; "
                "use 'folded'"
            )
        if not self.fits(device_kind):
            capacity = _VMEM.get(device_kind, _LARGEST_VMEM)
            raise ValueError(
                f"implementation 'pallas_tpu' needs about {self._request(backward=True) >> 20} MiB of VMEM for a "
                f"{self.height}x{self.width} map of {self.in_features} channels, and {device_kind or 'a TPU'} has "
                f"{capacity >> 20} MiB; use 'folded'"
            )
