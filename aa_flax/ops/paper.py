"""The paper's own algorithm, kept for comparison.

Per axis, queries are multiplied by the whole table, `q·r` for all 2l-1 offsets, and a pad-and-reshape turns relative
offsets into absolute key positions (Bello et al., 2019, appendix, "skewing"). The relative terms take O(h*w*(h+w))
memory instead of one embedding per pair, but the n x hw x hw logits are built, added to three times and normalised in
memory.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.scaling import scaled_softmax
from aa_flax.precision import at_least_float32


def relative_to_absolute(logits: Float[Array, "*batch l offsets"]) -> Float[Array, "*batch l l"]:
    """Shift row i left so that entry `key - query + l - 1` lands in column `key`.

    One column of padding makes each row 2l long; read back with rows of 2l-1, every row starts one entry later than
    the one before it, which is the required shift.
    """
    *batch, length, offsets = logits.shape
    no_batch = [(0, 0)] * len(batch)
    flat = jnp.pad(logits, [*no_batch, (0, 0), (0, 1)]).reshape(*batch, length * (offsets + 1))
    flat = jnp.pad(flat, [*no_batch, (0, offsets - length)])
    return flat.reshape(*batch, length + 1, offsets)[..., :length, length - 1 :]


def paper(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return relative attention by skewed logits; see the module docstring."""
    b, h, w, n, _ = query.shape
    dtype = at_least_float32(query.dtype)
    by_query, by_logit = (scale, 1.0) if abs(scale) <= 1 else (1.0, scale)  # larger queries may not fit float16
    query = query * jnp.asarray(by_query, query.dtype)
    logits = jnp.einsum("byxnd,bvund->bnyxvu", query, key, preferred_element_type=dtype)
    if rel_height is not None and rel_width is not None:
        by_column = jnp.einsum("byxnd,rd->bnyxr", query, rel_width, preferred_element_type=dtype)
        logits += relative_to_absolute(by_column)[..., :, :, None, :]
        by_row = jnp.einsum("byxnd,rd->bnxyr", query, rel_height, preferred_element_type=dtype)
        logits += relative_to_absolute(by_row).swapaxes(2, 3)[..., :, None]
    weights = scaled_softmax(logits.reshape(b, n, h, w, h * w), by_logit, -1).reshape(logits.shape).astype(value.dtype)
    return jnp.einsum("bnyxvu,bvund->byxnd", weights, value)
