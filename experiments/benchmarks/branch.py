"""The attention branch whose memory is counted: projection, relative attention by one implementation, projection."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.ops import attention_branch
from aa_flax.ops.attention_branch import BRANCHES
from aa_flax.ops.multi_head_attention import attention_of_projected
from experiments.benchmarks.candidates import with_gradients
from experiments.benchmarks.cases import HEADS, KEY_DEPTH

# Sides of maps of ResNet-50's stage 3, on which memory grows with h·w or with its square.
SIDES = (8, 14, 20, 28, 32, 40, 48, 56, 64, 80)
BATCH, CHANNELS, VALUE_DEPTH = 8, 256, 24


def program(name: str) -> Callable[..., jax.Array]:
    """Return the branch as a function of a map, the two projections' kernels and both tables."""
    return functools.partial(fused if name in BRANCHES else separate, name)


def fused(name: str, x: jax.Array, qkv: jax.Array, out: jax.Array, *tables: jax.Array) -> jax.Array:
    """Return the branch computed as one operation."""
    return attention_branch(x, qkv, None, out, None, *tables, num_heads=HEADS, implementation=name)


def separate(name: str, x: jax.Array, qkv: jax.Array, out: jax.Array, *tables: jax.Array) -> jax.Array:
    """Return the branch computed step by step."""
    options: dict[str, Any] = dict(num_heads=HEADS, value_depth=out.shape[0], implementation=name)
    return attention_of_projected(x @ qkv, *tables, **options) @ out


def inputs(
    batch: int, side: int, channels: int, value_depth: int, dtype: Any
) -> tuple[jax.ShapeDtypeStruct, list[jax.ShapeDtypeStruct]]:
    """Return the shapes of a cotangent and of the branch's arguments on a square map."""
    shapes = [(batch, side, side, channels), (channels, 2 * HEADS * KEY_DEPTH + value_depth), (value_depth,) * 2]
    shapes += [(2 * side - 1, KEY_DEPTH)] * 2
    cotangent, *arguments = (
        jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in ((batch, side, side, value_depth), *shapes)
    )
    return cotangent, arguments


def gradients(name: str) -> Callable[..., Any]:
    """Return the branch with all gradients, as a function of a cotangent and the branch's arguments."""
    return with_gradients(program(name), range(5))
