"""Relative two-dimensional self-attention: the public entry to every implementation."""

import functools
import math
from collections.abc import Callable, Mapping
from numbers import Real
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from aa_flax.ops import reference as _reference
from aa_flax.ops.choice import choose
from aa_flax.ops.cudnn import cudnn
from aa_flax.ops.folded import folded
from aa_flax.ops.folded_pieces import folded_pieces
from aa_flax.ops.pallas_gpu import pallas_gpu
from aa_flax.ops.pallas_tpu import pallas_tpu
from aa_flax.ops.paper import paper

IMPLEMENTATIONS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "reference": _reference.reference,
        "paper": paper,
        "folded": folded,
        "folded_pieces": folded_pieces,
        "pallas_tpu": pallas_tpu,
        "pallas_tpu_interpret": functools.partial(pallas_tpu, interpret=True),
        "pallas_gpu": pallas_gpu,
        "pallas_gpu_interpret": functools.partial(pallas_gpu, interpret=True),
        "cudnn": cudnn,
    }
)


def relative_attention_2d(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "2*h-1 dk"] | None,
    rel_width: Float[Array, "2*w-1 dk"] | None,
    *,
    implementation: str = "auto",
    scale: float | np.floating | None = None,
) -> Float[Array, "b h w n dv"]:
    r"""Return self-attention over the h*w locations of a map, with relative position embeddings per axis.

    For a query at (iy, ix) and a key at (jy, jx), Bello et al. (2019), equations 3 and 4:

        logit(i, j) = scale * q_i · (k_j + rel_width[jx - ix + w - 1] + rel_height[jy - iy + h - 1])
        output_i    = sum_j softmax_j(logit(i, j)) v_j        the softmax runs over all h*w keys jointly

    The offset is key minus query, and `scale` covers the position terms too. Softmax and accumulation are in at least
    float32 whatever the inputs' dtype; the output has the inputs' dtype.

    Args:
        query, key: [b, h, w, n, dk], n heads of depth dk.
        value: [b, h, w, n, dv]; one floating dtype for all three.
        rel_height, rel_width: [2h-1, dk] and [2w-1, dk], shared by the heads; both None for no position.
        implementation: "reference" (index by index), "paper" (the authors' skewing), "folded" (position folded into
            the channels, plain XLA), "folded_pieces" (the same over some images, heads or queries at a time, so that
            memory grows with h*w only; no forward-mode derivatives), "pallas_tpu" (a kernel for TPUs;
            "pallas_tpu_interpret" runs it step by step anywhere, slowly), "pallas_gpu" and "pallas_gpu_interpret" (the
            same for NVIDIA GPUs), "cudnn" (fused attention on NVIDIA GPUs), or "auto", which chooses by platform,
            dtype and shape from the table in `aa_flax.ops.choice` and logs the choice (INFO) once per kind of call.
        scale: factor of the logits, a Python number; None means dk**-0.5.

    Raises:
        ValueError: ranks, sizes or table lengths that do not fit, an unknown implementation, or a map that it cannot
            serve.
        TypeError: dtypes that are not floating or differ, that the implementation does not know, or a scale that is
            not a plain number.
    """
    _check(query, key, value, rel_height, rel_width)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if isinstance(scale, jax.core.Tracer) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise TypeError(
            f"scale must be a finite Python number or None, got {scale!r}; multiply query for a learned one"
        )
    if implementation == "auto":
        b, h, w, n, dk = query.shape
        implementation = choose(query.dtype, h, w, n, dk, value.shape[-1], rel_height is not None, batch=b)
    if implementation not in IMPLEMENTATIONS:
        accepted = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {accepted}, got {implementation!r}")
    if rel_height is not None and rel_width is not None:
        rel_height, rel_width = rel_height.astype(query.dtype), rel_width.astype(query.dtype)
    return relative_attention(
        query, key, value, rel_height, rel_width, implementation=implementation, scale=float(scale)
    )


# Its own jit gives the call a name in every jaxpr: there `analysis.summarize` counts what attention needs by its
# shapes, whatever the implementation spends.
@functools.partial(jax.jit, static_argnames=("implementation", "scale"))
def relative_attention(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    implementation: str,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return `relative_attention_2d` of arguments that are already checked and resolved."""
    return IMPLEMENTATIONS[implementation](query, key, value, rel_height, rel_width, scale)


def relative_attention_weights_2d(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    rel_height: Float[Array, "2*h-1 dk"] | None,
    rel_width: Float[Array, "2*w-1 dk"] | None,
    *,
    queries: Int[np.ndarray, "q 2"] | None = None,
    scale: float | np.floating | None = None,
) -> Float[Array, "b n *queries h w"]:
    """Return the attention maps, each of which sums to one over the h*w keys, for people to look at.

    Without `queries`, these are all maps, [b, n, query_h, query_w, key_h, key_w], n*(h*w)**2 numbers for each image;
    otherwise those of a few queries, given as q (row, column) pairs: [b, n, q, key_h, key_w]. Other arguments and
    errors are as in `relative_attention_2d`.
    """
    _check(query, key, query, rel_height, rel_width)
    scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
    if queries is None:
        return _reference.attention_weights(query, key, rel_height, rel_width, scale)
    h, w = query.shape[1:3]
    if queries.ndim != 2 or queries.shape[1] != 2 or (queries < 0).any() or (queries >= (h, w)).any():
        raise ValueError(f"queries must be (row, column) pairs inside the {h}x{w} map, got {queries.tolist()}")
    chosen = query[:, queries[:, 0], queries[:, 1]]
    return _reference.attention_weights_at(chosen, queries, key, rel_height, rel_width, scale)


def _check(query: Array, key: Array, value: Array, rel_height: Array | None, rel_width: Array | None) -> None:
    for name, array, last in (("query", query, "dk"), ("key", key, "dk"), ("value", value, "dv")):
        if np.ndim(array) != 5:
            raise ValueError(
                f"{name} must have shape [b, h, w, n, {last}], got rank {np.ndim(array)}: {np.shape(array)}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating, got {array.dtype}")
        if array.dtype != query.dtype:
            raise TypeError(f"{name} must have query's dtype {query.dtype}, got {array.dtype}")
        if 0 in array.shape:
            raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if key.shape != query.shape:
        raise ValueError(f"key must have query's shape {query.shape}, got {key.shape}")
    if value.shape[:4] != query.shape[:4]:
        raise ValueError(f"value must have shape {(*query.shape[:4], 'dv')} like query, got {value.shape}")
    if (rel_height is None) != (rel_width is None):
        given = "rel_width" if rel_height is None else "rel_height"
        raise ValueError(f"rel_height and rel_width must both be given or both be None, got only {given}")
    _, h, w, _, dk = query.shape
    for name, table, length, axis in (("rel_height", rel_height, h, "h"), ("rel_width", rel_width, w, "w")):
        if table is not None and np.shape(table) != (2 * length - 1, dk):
            accepted = f"[2{axis}-1, dk] = {(2 * length - 1, dk)}"
            raise ValueError(f"{name} must have shape {accepted} for a {h}x{w} map, got {np.shape(table)}")
