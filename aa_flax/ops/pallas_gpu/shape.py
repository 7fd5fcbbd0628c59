"""Sizes of the GPU kernels: padding, tiles, warps, and which calls they serve."""

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

_TILES = (16, 32)  # locations of a tile along a row or column of the map; a tensor core takes at least 16
_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)
_DEEPEST = {2: 128, 4: 64}  # by bytes of a number: the largest key or value depth per head that stays in registers
_PROGRAMS = 8192  # enough for a backward pass, timed on an H200; with more, only the tables' partial sums grow
_OLDEST = (8, 0)  # compute capability; tensor cores for bfloat16
_LOG2_E = 1.4426950408889634


def power_of_two(number: int, least: int) -> int:
    """Return the smallest power of two that is at least `number` and at least `least`."""
    return max(least, 1 << (number - 1).bit_length())


def tile_of(length: int, dtype: Any) -> int:
    """Return the number of locations of a tile along a row or column of `length` locations.

    The larger tile takes fewer instructions for each logit, but the passes stay in registers only if it covers the row
    or column and a number has two bytes.
    """
    small, large = _TILES
    return large if small < length <= large and jnp.dtype(dtype).itemsize == 2 else small


@dataclass(frozen=True)
class Shape:
    """One attention function over a map whose queries, keys and values lie side by side, each head-major."""

    height: int
    width: int
    num_heads: int
    key_depth: int  # per head
    value_depth: int  # per head
    scale: float
    positions: bool
    dtype: Any
    precision: Any = None  # of products in float32
    interpret: bool = False  # run step by step, on any device

    @property
    def places(self) -> int:
        """The number of locations of the map, h*w."""
        return self.height * self.width

    @property
    def depths(self) -> int:
        """The number of channels of the map: queries, keys and values of all heads."""
        return self.num_heads * (2 * self.key_depth + self.value_depth)

    @property
    def factor(self) -> float:
        """The factor of logits' differences in base two; above 0, for the scale's sign is applied to the queries."""
        return (abs(self.scale) or 1.0) * _LOG2_E

    @property
    def key_columns(self) -> int:
        """The depth of queries and keys in products."""
        return power_of_two(self.key_depth, 16)

    @property
    def value_columns(self) -> int:
        """The depth of values in products."""
        return power_of_two(self.value_depth, 16)

    @cached_property
    def query_tile(self) -> int:
        """The number of queries of a tile: locations of one row of the map."""
        return tile_of(self.width, self.dtype)

    @cached_property
    def key_tile(self) -> int:
        """The number of keys of a tile: locations of one column of the map."""
        return tile_of(self.height, self.dtype)

    @property
    def row_tiles(self) -> int:
        """The number of tiles of queries in a row of the map."""
        return math.ceil(self.width / self.query_tile)

    @property
    def column_tiles(self) -> int:
        """The number of tiles of keys in a column of the map."""
        return math.ceil(self.height / self.key_tile)

    @property
    def query_tiles(self) -> int:
        """The number of tiles of queries in a map."""
        return self.height * self.row_tiles

    @property
    def key_tiles(self) -> int:
        """The number of tiles of keys in a map."""
        return self.width * self.column_tiles

    @property
    def warps(self) -> int:
        """The number of warps of a program: enough that each warp's share of logits and depths stays in registers."""
        logits, depths = self.query_tile * self.key_tile, max(self.key_columns, self.value_columns)
        return max(1, logits // 512) * max(1, depths // 32) * (1 + (self.dtype == jnp.float32))

    def stages(self, *, backward: bool) -> int:
        """Return how many steps of a loop load at once; more pay off in long loops (timed on an H200, in bfloat16)."""
        steps = min(self.height, self.width)
        if not backward or steps < 10 or self.dtype == jnp.float32:
            return 1
        return 2 if steps < 24 else 3

    def group(self, batch: int) -> int:
        """Return how many heads a program of the backward pass takes one after the other, a divisor of their number.

        A program sums its part of the tables' gradients over its heads. They are as many as leave the GPU enough
        programs.
        """
        programs = batch * (self.query_tiles + self.key_tiles)
        divisors = [g for g in range(1, self.num_heads + 1) if self.num_heads % g == 0]
        return max(g for g in divisors if g == 1 or programs * self.num_heads // g >= _PROGRAMS)

    def cost(self, batch: int, *, backward: bool) -> tuple[int, int]:
        """Return the floating-point operations and the exponentials of one pass over a batch, padding not counted."""
        dk, dv, places = self.key_depth, self.value_depth, self.places
        h, w = (self.height, self.width) if self.positions else (0, 0)
        if backward:
            # For queries: logits, gradients of weights and queries. For keys: logits and their height terms, gradients
            # of weights, values and keys.
            of_a_pair = (4 + self.positions) * dk + 3 * dv
            # Terms of height and width for queries, of width for keys; gradients of query and table through all three.
            of_a_query = (3 * h + 4 * w) * dk
        else:
            of_a_pair, of_a_query = dk + dv, (h + w) * dk
        queries = batch * self.num_heads * places
        return 2 * queries * (places * of_a_pair + of_a_query), queries * places * (1 + backward)

    def fits(self, capability: tuple[int, int] | None = None) -> bool:
        """Return whether the kernels serve this shape, on a GPU of this compute capability if it is known."""
        return self._refusal(capability) is None

    def check(self, capability: tuple[int, int] | None = None) -> None:
        """Raise an error if the kernels do not serve this shape, on a GPU of this compute capability if it is known.

        Raises:
            TypeError: a dtype that the kernels do not know.
            ValueError: a depth per head that they do not take.
            RuntimeError: a GPU on which they do not run, or a JAX without Triton.
        """
        if refusal := self._refusal(capability):
            error, words = refusal
            raise error(f"implementation 'pallas_gpu' {words}; use 'folded'")

    def _refusal(self, capability: tuple[int, int] | None) -> tuple[type[Exception], str] | None:
        if self.dtype not in _DTYPES:
            return TypeError, f"computes in bfloat16, float16 or float32, got {jnp.dtype(self.dtype).name}"
        deepest = _DEEPEST[jnp.dtype(self.dtype).itemsize]
        for name, depth in (("key", self.key_depth), ("value", self.value_depth)):
            if depth > deepest:
                return ValueError, f"takes a {name} depth of at most {deepest} per head in {self.dtype}, got {depth}"
        if capability is not None and capability < _OLDEST:
            found = ".".join(map(str, capability))
            return RuntimeError, f"needs an NVIDIA GPU of compute capability 8.0 or newer, got {found}"
        if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
            return RuntimeError, f"needs Pallas for Triton, which jax {jax.__version__} does not have"
        return None


def caller_precision(interpret: bool) -> Any:
    """Return how to multiply float32, by `jax.default_matmul_precision`: in TF32, the default on GPUs, or exactly."""
    if interpret:
        return jax.lax.Precision.HIGHEST
    wanted = str(jax.config.jax_default_matmul_precision or "default").lower()  # type: ignore[attr-defined]
    if wanted in ("highest", "float32", "f32_f32_f32"):
        return jax.lax.Precision.HIGHEST
    if wanted in ("high", "bfloat16_3x", "tf32_tf32_f32_x3"):
        return jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return jax.lax.Precision.DEFAULT
