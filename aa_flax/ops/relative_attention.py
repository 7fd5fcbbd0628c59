"""Relative self-attention over signals, maps and volumes: the public entry to every implementation."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aa_flax.ops import reference as _reference
from aa_flax.ops.attention_arguments import check_arguments, check_queries
from aa_flax.ops.choice import choose
from aa_flax.ops.cudnn import cudnn
from aa_flax.ops.folded import fold, folded
from aa_flax.ops.folded_pieces import folded_pieces
from aa_flax.ops.hidden_keys import only_valid, with_hidden_keys
from aa_flax.ops.pallas_gpu import pallas_gpu
from aa_flax.ops.pallas_tpu import pallas_tpu
from aa_flax.ops.paper import paper
from aa_flax.ops.tables import both_tables

Tables = Sequence[Float[Array, "_rows dk"] | None]

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


IN_SPACE = ("reference", "folded", "folded_pieces")
"""Implementations that serve three dimensions too."""


def relative_attention(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    value: Float[Array, "b *space n dv"],
    tables: Tables | None = None,
    *,
    valid: Bool[Array, "b *space"] | None = None,
    implementation: str = "auto",
    scale: float | np.floating | None = None,
) -> Float[Array, "b *space n dv"]:
    r"""Return self-attention over all locations of a space of one to three dimensions, with relative positions.

    For a query at i = (i_1, ...) and a key at j, with the sum over the axes a, as Bello et al. (2019), equations 3 and
    4, have it of the two axes of a map:

        logit(i, j) = scale * q_i · (k_j + sum_a table_a[j_a - i_a + size_a - 1])
        output_i    = sum_j softmax_j(logit(i, j)) v_j        the softmax runs over all locations jointly

    The offset is key minus query, and `scale` covers the position terms too. Softmax and accumulation are in at least
    float32 whatever the inputs' dtype; the output has the inputs' dtype.

    Locations must lie on a grid: a relative table has one row for each offset along an axis. Points without an order
    have no such offsets and can have attention without tables only, as a signal whose order then does not matter.

    Args:
        query, key: [b, *space, n, dk], n heads of depth dk; space is (length,), (height, width) or (depth, height,
            width).
        value: [b, *space, n, dv]; one floating dtype for all three.
        tables: one for each axis in the order of the axes, [2 * size - 1, dk], shared by the heads; None for an axis
            without position, or instead of all of them.
        valid: [b, *space], the locations that are there and not padding; None is all. No query attends to the others,
            whose keys and values have no influence and no gradient, whatever stands there. Queries there have outputs
            like any others. Where no location of an image is valid, its outputs are 0, and so are its gradients.
        implementation: "reference" (index by index), "paper" (the authors' skewing), "folded" (position folded into
            the channels, plain XLA), "folded_pieces" (the same over some images, heads or queries at a time, so that
            memory grows with the number of locations only; no forward-mode derivatives), "pallas_tpu" (a kernel for
            TPUs; "pallas_tpu_interpret" runs it step by step anywhere, slowly), "pallas_gpu" and
            "pallas_gpu_interpret" (the same for NVIDIA GPUs), "cudnn" (fused attention on NVIDIA GPUs), or "auto",
            which chooses by platform, dtype and shape from the table in `aa_flax.ops.choice` and logs the choice (INFO)
            once per kind of call. A signal is served by each of them as a map of height 1, a volume by "reference",
            "folded" and "folded_pieces" only.
        scale: factor of the logits, a Python number; None means dk**-0.5.

    Raises:
        ValueError: ranks, sizes or table lengths that do not fit, an unknown implementation, or a call that it cannot
            serve.
        TypeError: dtypes that are not floating or differ, that the implementation does not know, a `valid` that is not
            bool, or a scale that is not a plain number.
    """
    dimensions = check_arguments(query, key, value, tables, valid)
    tables = (None,) * dimensions if tables is None else tuple(tables)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if isinstance(scale, jax.core.Tracer) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise TypeError(
            f"scale must be a finite Python number or None, got {scale!r}; multiply query for a learned one"
        )
    positions = any(table is not None for table in tables)
    if implementation == "auto":
        b, *space, n, dk = query.shape
        *rows, width = space
        depths = dk + (valid is not None), value.shape[-1]
        implementation = choose(
            query.dtype, math.prod(rows), width, n, *depths, positions, batch=b, dimensions=dimensions
        )
    if implementation not in IMPLEMENTATIONS:
        accepted = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {accepted}, got {implementation!r}")
    if dimensions == 3 and implementation not in IN_SPACE:
        raise ValueError(
            f"implementation {implementation!r} serves one and two dimensions, got three: use 'auto' or one of "
            f"{', '.join(map(repr, IN_SPACE))}"
        )
    tables = tuple(None if table is None else table.astype(query.dtype) for table in tables)
    return attend(query, key, value, tables, valid, implementation=implementation, scale=float(scale))


# Its own jit gives the call a name in every jaxpr: there `analysis.summarize` counts what attention needs by its
# shapes, whatever the implementation spends.
@functools.partial(jax.jit, static_argnames=("implementation", "scale"))
def attend(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    value: Float[Array, "b *space n dv"],
    tables: Tables,
    valid: Bool[Array, "b *space"] | None,
    *,
    implementation: str,
    scale: float,
) -> Float[Array, "b *space n dv"]:
    """Return `relative_attention` of arguments that are already checked and resolved."""
    if valid is not None:
        # Where none is valid, all values are 0, and with them the output and every gradient.
        key, value = only_valid(key, valid), only_valid(value, valid)
    if implementation == "reference":
        return _reference.attention(query, key, value, tables, scale, valid)
    if valid is not None:
        query, key, tables, scale = with_hidden_keys(query, key, tables, valid, scale)
    space = query.shape[1:-2]
    if len(space) == 3:
        query, key, tables = *fold(query, key, *tables), (None, None)
    # A signal is one row of a map; the planes of a folded volume, which has no tables left, are more rows of one.
    query, key, value = (x.reshape(x.shape[0], -1, *x.shape[-3:]) for x in (query, key, value))
    tables = both_tables((None, *tables)[-2:], query.shape[1:3], query.shape[-1], query.dtype)
    heads = IMPLEMENTATIONS[implementation](query, key, value, *tables, scale)
    return heads.reshape(heads.shape[0], *space, *heads.shape[3:])


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
    """Return self-attention over the h*w locations of a map, see `relative_attention`, with its two tables.

    Args:
        query, key: [b, h, w, n, dk], n heads of depth dk.
        value: [b, h, w, n, dv]; one floating dtype for all three.
        rel_height, rel_width: [2h-1, dk] and [2w-1, dk], shared by the heads; both None for no position.
        implementation, scale: see `relative_attention`.

    Raises:
        ValueError, TypeError: as `relative_attention`; only one table.
    """
    check_arguments(query, key, value, (rel_height, rel_width), None, dimensions=2)
    if (rel_height is None) != (rel_width is None):
        given = "rel_width" if rel_height is None else "rel_height"
        raise ValueError(f"rel_height and rel_width must both be given or both be None, got only {given}")
    return relative_attention(query, key, value, (rel_height, rel_width), implementation=implementation, scale=scale)


def relative_attention_weights(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    tables: Tables | None = None,
    *,
    valid: Bool[Array, "b *space"] | None = None,
    queries: Int[np.ndarray, "q _axes"] | None = None,
    scale: float | np.floating | None = None,
) -> Float[Array, "b n *queries_and_space"]:
    """Return the attention maps, each of which sums to one over the valid keys, for people to look at.

    Without `queries`, these are all maps, [b, n, *query's space, *key's space], n numbers for each pair of locations of
    each image; otherwise those of a few queries, given as q coordinates: [b, n, q, *key's space]. Where no key is
    valid, they are 0. Other arguments and errors are as in `relative_attention`.
    """
    dimensions = check_arguments(query, key, query, tables, valid)
    tables = (None,) * dimensions if tables is None else tuple(tables)
    scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
    if valid is not None:
        key = only_valid(key, valid)
    if queries is None:
        return _reference.attention_weights(query, key, tables, scale, valid)
    check_queries(queries, query.shape[1:-2])
    chosen = query[(slice(None), *np.moveaxis(queries, -1, 0))]
    return _reference.attention_weights_at(chosen, queries, key, tables, scale, valid)


def relative_attention_weights_2d(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    rel_height: Float[Array, "2*h-1 dk"] | None,
    rel_width: Float[Array, "2*w-1 dk"] | None,
    *,
    queries: Int[np.ndarray, "q 2"] | None = None,
    scale: float | np.floating | None = None,
) -> Float[Array, "b n *queries h w"]:
    """Return `relative_attention_weights` of a map with its two tables.

    They are [b, n, query_h, query_w, key_h, key_w], or with `queries`, (row, column) pairs, [b, n, q, key_h, key_w].
    """
    check_arguments(query, key, query, (rel_height, rel_width), None, dimensions=2)
    return relative_attention_weights(query, key, (rel_height, rel_width), queries=queries, scale=scale)
