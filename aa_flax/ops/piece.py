"""One piece of relative attention: some queries of some maps with all their keys, forward and backward.

All arrays are depth-major and queries lie on the last axis, [g, depth, y, x] for a block of queries and [g, depth, j]
for keys and values, and the logits are [g, jy, jx, i]. So every loop over the weights runs along the queries: the
position terms `A_i[jx] = q_i·rel_width[jx-ix+w-1]` and `B_i[jy]` are whole rows that are added to rows, and the
softmax reduces over rows. No product is deeper than the key depth. The tables hold a row for each pair of coordinates,
as `tables.by_pair` returns them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from aa_flax.ops.platform import target_platform
from aa_flax.precision import at_least_float32

Tables = tuple[Array, ...]  # height [y, h, dk] and width [x, w, dk], or none


def position_terms(
    query: Float[Array, "g dk y x"], tables: Tables, dtype: jnp.dtype
) -> tuple[Float[Array, "g h i"], Float[Array, "g w i"]]:
    """Return B and A, the height term and the width term of each query."""
    by_row, by_column = (
        jnp.einsum(products, query, table, preferred_element_type=dtype)
        for products, table in zip(("gdyx,yvd->gvyx", "gdyx,xud->guyx"), tables, strict=True)
    )
    return _flat(by_row), _flat(by_column)


def forward(
    query: Float[Array, "g dk y x"],
    key: Float[Array, "g dk j"],
    value: Float[Array, "g dv j"],
    tables: Tables,
    scale: float,
    size: tuple[int, int],
    always: Bool[Array, ""],
) -> tuple[Float[Array, "g dv y x"], Float[Array, "g 2 y x"]]:
    """Return the output, and each query's largest logit before scaling with the logarithm of its sum of exponentials.

    The two are kept apart, because the sum of a large and a small number loses the small one. The scale is at least 0
    and is applied to differences, see `aa_flax.ops.scaling`. `size` is the keys' (h, w). `always` is true, but known
    only at run time and not to the compiler, see `_laid_out`. The softmax's denominator is one more value channel, of
    ones, so the weights are never divided.
    """
    (g, _, *block), dtype = query.shape, at_least_float32(query.dtype)
    products = _products(query, key, tables, size, always)
    largest = products.max((1, 2))
    weights = jnp.exp(scale * (products - largest[:, None, None])).astype(value.dtype).reshape(g, key.shape[-1], -1)
    value = jnp.concatenate([value, jnp.ones_like(value[:, :1])], 1)
    sums = jnp.einsum("gdj,gji->gdi", value, weights, preferred_element_type=dtype)
    output = (sums[:, :-1] / sums[:, -1:]).astype(value.dtype)
    return output.reshape(g, -1, *block), jnp.stack([largest, jnp.log(sums[:, -1])], 1).reshape(g, 2, *block)


def backward(
    query: Float[Array, "g dk y x"],
    key: Float[Array, "g dk j"],
    value: Float[Array, "g dv j"],
    tables: Tables,
    kept: tuple[Float[Array, "g dv y x"], Float[Array, "g 2 y x"]],
    cotangent: Float[Array, "g dv y x"],
    scale: float,
    size: tuple[int, int],
    always: Bool[Array, ""],
) -> tuple[Array, Array, Array, Tables]:
    """Return the gradients of query, key, value and tables, in the accumulator's dtype.

    `kept` is what `forward` returned. With weights p, output o and cotangent c, the gradient of a logit before scaling
    is `scale * p_ij (c_i·v_j - c_i·o_i)`.
    """
    g, places, dtype = len(key), key.shape[-1], at_least_float32(query.dtype)
    output, sums, cotangent = _laid_out(always, *(_flat(x) for x in (*kept, cotangent)))
    largest, log_sum = (sums[:, i, None, None] for i in range(2))
    products = _products(query, key, tables, size, always)
    weights = jnp.exp(scale * (products - largest) - log_sum).reshape(g, places, -1)
    mean = jnp.einsum("gdi,gdi->gi", cotangent, output, preferred_element_type=dtype)
    by_weight = jnp.einsum("gdj,gdi->gji", value, cotangent, preferred_element_type=dtype)
    by_logit = scale * weights * (by_weight - mean[:, None])
    weights, narrow = weights.astype(value.dtype), by_logit.astype(query.dtype)
    by_value = jnp.einsum("gdi,gji->gdj", cotangent, weights, preferred_element_type=dtype)
    by_key = jnp.einsum("gdi,gji->gdj", _flat(query), narrow, preferred_element_type=dtype)
    by_query = jnp.einsum("gdj,gji->gdi", key, narrow, preferred_element_type=dtype).reshape(query.shape)
    if not tables:
        return by_query, by_key, by_value, ()
    _, pullback = jax.vjp(lambda query, *tables: position_terms(query, tables, dtype), query, *tables)
    rows = by_logit.reshape(g, *size, -1)
    # A sum over the leading axis, as a product: on a CPU, XLA's reduction over it is twenty times slower.
    ones = jnp.ones((g, 1, size[0]), dtype)
    by_column = jnp.einsum("gky,gyz->gkz", ones, rows.reshape(g, size[0], -1)).reshape(g, size[1], -1)
    through_terms, *by_tables = (x.astype(dtype) for x in pullback((rows.sum(2), by_column)))
    return by_query + through_terms, by_key, by_value, tuple(by_tables)


def _products(
    query: Array, key: Array, tables: Tables, size: tuple[int, int], always: Array
) -> Float[Array, "g h w i"]:
    """Return the logits before scaling."""
    dtype = at_least_float32(query.dtype)
    products = jnp.einsum("gdj,gdi->gji", key, _flat(query), preferred_element_type=dtype)
    products = products.reshape(key.shape[0], *size, -1)
    if tables:
        by_row, by_column = _laid_out(always, *position_terms(query, tables, dtype))
        products = products + by_column[:, None] + by_row[:, :, None]
    return products


def _flat(x: Array) -> Array:
    """Return `x` with the two axes of a block of queries as one."""
    return x.reshape(*x.shape[:2], -1)


def _laid_out(always: Bool[Array, ""], *arrays: Array) -> tuple[Array, ...]:
    """Return the same arrays, fully computed in memory before they are read.

    If XLA transposed them where they are read, they would slow the loops over the weights. On a CPU the compiler drops
    optimization barriers before it fuses, but keeps a condition whose value is known only at run time.
    """
    if target_platform() != "cpu":
        return tuple(jax.lax.optimization_barrier(arrays))
    nothing = lambda *arrays: tuple(jnp.zeros_like(x) for x in arrays)  # noqa: E731
    return jax.lax.cond(always, lambda *arrays: arrays, nothing, *arrays)
