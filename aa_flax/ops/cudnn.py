"""Relative attention through cuDNN's fused attention on NVIDIA GPUs.

The fold turns it into plain attention, so the (h*w)**2 logits never reach memory. JAX passes cuDNN queries, keys and
values of one depth, a multiple of 8, so the folded queries and keys and the values are padded with zeros to the same
width; cuDNN itself would take shallower values, but no public function of JAX passes them (up to 0.12.0). JAX takes
gradients at even numbers of locations only: to an odd number one location is added, and one more folded channel hides
it from the softmax. Under an ambient mesh with an axis "data" each device serves its part of the batch.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.ops.folded import fold
from aa_flax.ops.hidden_keys import hiding_number
from aa_flax.ops.mesh import BATCHED, over_mesh
from aa_flax.ops.platform import target_capability, target_platform

# Hopper takes 256 too, but its backward pass falls off above 128 and older GPUs take no more.
WIDEST = 128
_OLDEST = (8, 0)  # Ampere; cuDNN's fused attention runs on nothing older


def folded_width(h: int, w: int, key_depth: int, value_depth: int, positions: bool) -> int:
    """Return the depth of query, key and value for cuDNN: the larger of folded key and value depth, in steps of 8."""
    hiding = h * w % 2
    width = max(key_depth + (h + w if positions else 0) + hiding, value_depth)
    return -(-width // 8) * 8


def available() -> bool:
    """Return whether JAX finds cuDNN, and a GPU for it, for programs that are traced now."""
    shape = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(lambda x: jax.nn.dot_product_attention(x, x, x, implementation="cudnn"), shape)
    except (NotImplementedError, RuntimeError):
        return False
    return True


def refusal(
    dtype: Any,
    h: int,
    w: int,
    key_depth: int,
    value_depth: int,
    positions: bool,
    *,
    capability: tuple[int, int] | None = None,
) -> tuple[type[Exception], str] | None:
    """Return why cuDNN cannot serve a call, as the type of the error and its message; None if it can.

    Args:
        dtype: of queries, keys and values.
        h, w, key_depth, value_depth: of the call, depths per head.
        positions: whether the call has relative positions.
        capability: compute capability of the GPU; None if unknown, which is no reason to refuse.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16):
        return TypeError, f"computes in bfloat16 or float16, got {dtype.name}"
    if capability is not None and capability < _OLDEST:
        return (
            RuntimeError,
            f"needs an NVIDIA GPU of compute capability 8.0 or newer, got {capability[0]}.{capability[1]}",
        )
    if (width := folded_width(h, w, key_depth, 0, positions)) > WIDEST:
        return ValueError, (
            f"takes a folded width (key depth + h + w) of at most {WIDEST}, got {width} for a {h}x{w} map, which "
            "attention_downsample would make smaller"
        )
    if value_depth > WIDEST:
        return ValueError, f"takes a value depth of at most {WIDEST} per head, got {value_depth}"
    return None


def cudnn(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
    *,
    engine: str = "cudnn",
) -> Float[Array, "b h w n dv"]:
    """Return relative attention by the fold and `jax.nn.dot_product_attention`; `engine="xla"` runs on any device.

    Raises:
        TypeError: dtypes other than float16 and bfloat16.
        ValueError: a folded width dk + h + w or a value depth above 128, or a batch that the mesh does not divide.
        RuntimeError: traced for another device than a GPU, no cuDNN, or a GPU that it does not serve.
    """
    b, h, w, n, dv = value.shape
    positions = rel_height is not None
    capability = target_capability() if engine == "cudnn" else None
    if refused := refusal(query.dtype, h, w, query.shape[-1], dv, positions, capability=capability):
        error, words = refused
        raise error(f"implementation 'cudnn' {words}; use 'folded'")
    if engine == "cudnn" and (platform := target_platform()) != "gpu":
        raise RuntimeError(
            f"implementation 'cudnn' cannot run here: it runs on NVIDIA GPUs, and this program is traced for a "
            f"{platform}; use 'folded'"
        )
    width = folded_width(h, w, query.shape[-1], dv, positions)
    if rel_height is not None and rel_width is not None:
        query, key = fold(query, key, rel_height, rel_width)
    query, key, value = (x.reshape(b, h * w, n, -1) for x in (query, key, value))
    if h * w % 2:
        query, key, value, scale = _with_hidden_place(query, key, value, scale)

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    def attend(*arguments: Array) -> Array:
        return jax.nn.dot_product_attention(*arguments, scale=scale, implementation=engine)  # type: ignore[call-overload]

    try:
        split = over_mesh(attend, b, (BATCHED,) * 3, BATCHED, name="cudnn")
        output = split(padded(query), padded(key), padded(value))
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(f"implementation 'cudnn' cannot run here: {error}") from error
    return output[:, : h * w, :, :dv].reshape(b, h, w, n, dv)


def _with_hidden_place(query: Array, key: Array, value: Array, scale: float) -> tuple[Array, Array, Array, float]:
    """Add one location at the end, and one channel that hides the new location's key from every softmax.

    That channel is large in all queries, minus large in the key of the new location and zero in the other keys. If the
    scale is below 1/2, its power of two is moved into the queries, which rounds nothing, so that the logit stays large.
    The query of the new location sees all keys alike; its output is cut off.
    """
    power = 2.0 ** min(math.frexp(scale)[1], 0) if scale else 0.0
    query, scale = query * jnp.asarray(power, query.dtype), scale / power if scale else 1.0
    channel = ((0, 0), (0, 0), (0, 0), (0, 1))
    place = ((0, 0), (0, 1), (0, 0), (0, 0))
    large = hiding_number(query.dtype)
    query = jnp.pad(jnp.pad(query, channel, constant_values=large), place)
    key = jnp.pad(jnp.pad(key, channel), place)
    hidden = np.zeros((key.shape[1], 1, key.shape[3]), bool)
    hidden[-1, 0, -1] = True
    key = jnp.where(hidden, jnp.asarray(-math.copysign(large, scale), key.dtype), key)
    return query, key, jnp.pad(value, place), scale
