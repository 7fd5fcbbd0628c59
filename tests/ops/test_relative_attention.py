import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax import ops
from aa_flax.ops.paper import relative_to_absolute
from aa_flax.ops.relative_attention import relative_attention_weights_2d

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle

IN_FLOAT64 = ("reference", "paper", "folded")  # in one piece "folded_pieces" is "folded"; see its own tests
ON_A_CPU = (*IN_FLOAT64, "pallas_tpu_interpret")

# b, h, w, n, dk, dv: distinct primes, one-row and one-column maps, one head
SIZES = [
    (2, 3, 5, 7, 11, 13),
    (1, 5, 2, 3, 7, 1),
    (2, 1, 7, 2, 3, 5),
    (3, 7, 1, 2, 5, 3),
    (1, 3, 2, 1, 5, 7),
    (1, 1, 1, 2, 3, 5),
]


def compiled(implementation, **options):
    return jax.jit(functools.partial(ops.relative_attention_2d, implementation=implementation, **options))


def value_and_gradients(arrays, cotangent, **options):
    present = [i for i, x in enumerate(arrays) if x is not None]

    def weighted_sum(*given):
        full = [None] * 5
        for i, x in zip(present, given, strict=True):
            full[i] = x
        output = ops.relative_attention_2d(*full, **options)
        return jnp.sum(output * cotangent), output

    argnums = tuple(range(len(present)))
    run = jax.jit(jax.value_and_grad(weighted_sum, argnums, has_aux=True))
    (_, output), gradients = run(*[arrays[i] for i in present])
    return output, gradients


@pytest.mark.few(1, thorough=24)
@pytest.mark.parametrize("implementation", ON_A_CPU)
@pytest.mark.parametrize("tables", [True, False], ids=["relative", "no_position"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_value_and_five_gradients_equal_brute_force(rng, implementation, tables, size):
    arrays = oracle.inputs(rng, *size, tables=tables)
    cotangent = rng.normal(size=arrays[2].shape).astype(np.float32)
    expected, expected_gradients = oracle.attend(*arrays, size[4] ** -0.5, cotangent)
    output, gradients = value_and_gradients(arrays, cotangent, implementation=implementation)
    # float32 sums of at most 35 terms of order one: a few hundred roundings of 6e-8
    np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-5)
    for gradient, wanted in zip(gradients, [g for g in expected_gradients if g is not None], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", IN_FLOAT64)
def test_float64_is_not_cut_to_float32(rng, implementation):
    with jax.enable_x64(True):
        arrays = oracle.inputs(rng, 1, 3, 2, 2, 5, 3, dtype=jnp.float64)
        expected, _ = oracle.attend(*arrays, 0.7)
        output = compiled(implementation, scale=0.7)(*arrays)
        assert output.dtype == jnp.float64
        np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.few(3)
@pytest.mark.parametrize("implementation", ON_A_CPU)
def test_bfloat16_stays_within_its_roundings(rng, implementation):
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in oracle.inputs(rng, 2, 5, 7, 3, 5, 4)]
    query, key, value, rel_height, rel_width = (np.asarray(x, np.float64) for x in arrays)
    scale = 5**-0.5
    expected, _ = oracle.attend(query, key, value, rel_height, rel_width, scale)
    output = compiled(implementation)(*arrays)
    assert output.dtype == jnp.bfloat16
    # u is bfloat16's unit roundoff. Before the float32 accumulation an implementation may round each factor of a logit
    # (the query by the scale, or a folded term) and the scale: |error of a logit| <= 2u * scale * |q|·(|k| + |r|). A
    # softmax weight then changes by at most twice that, relatively; weights, normaliser and output round once each.
    u = 2.0**-9
    reach = np.abs(key).max((0, 1, 2, 3)) + np.abs(rel_height).max(0) + np.abs(rel_width).max(0)
    logit_error = 2 * u * scale * (np.abs(query) @ reach)
    bound = ((2 * logit_error + 3 * u) * np.abs(value).max())[..., None]
    np.testing.assert_array_less(np.abs(np.asarray(output, np.float64) - expected) - bound, 0)
    assert np.median(bound) < 0.5  # the bound is worth something: values are of order one


@pytest.mark.few(0)
@pytest.mark.parametrize("implementation", ON_A_CPU)
def test_under_jit_vmap_and_remat(rng, implementation):
    arrays = oracle.inputs(rng, 3, 2, 5, 2, 3, 7)

    def attend(query, key, value, rel_height, rel_width):
        return ops.relative_attention_2d(query, key, value, rel_height, rel_width, implementation=implementation)

    expected = attend(*arrays)
    np.testing.assert_allclose(jax.jit(attend)(*arrays), expected, rtol=1e-6, atol=1e-6)
    one_by_one = jax.vmap(lambda q, k, v: attend(q[None], k[None], v[None], *arrays[3:])[0])(*arrays[:3])
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-5, atol=1e-6)

    def loss(attend):
        return lambda *xs: jnp.sum(attend(*xs) ** 2)

    straight = jax.grad(loss(attend), tuple(range(5)))(*arrays)
    rematerialised = jax.jit(jax.grad(loss(jax.checkpoint(attend)), tuple(range(5))))(*arrays)
    for a, b in zip(straight, rematerialised, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ON_A_CPU)
def test_large_logits_do_not_overflow(rng, implementation):
    arrays = oracle.inputs(rng, 1, 3, 5, 2, 7, 3)
    arrays[0] *= 300
    expected, _ = oracle.attend(*arrays, 1.0)
    output = compiled(implementation, scale=1.0)(*arrays)
    np.testing.assert_allclose(output, expected, atol=2e-3)  # logits near 3000 carry a float32 rounding of 2e-4


def test_weights_sum_to_one_and_make_the_output(rng):
    query, key, value, rel_height, rel_width = oracle.inputs(rng, 2, 3, 5, 2, 7, 3)
    weights = relative_attention_weights_2d(query, key, rel_height, rel_width)
    assert weights.shape == (2, 2, 3, 5, 3, 5)
    np.testing.assert_allclose(weights.sum((-2, -1)), np.ones((2, 2, 3, 5)), rtol=1e-6)
    expected = ops.relative_attention_2d(query, key, value, rel_height, rel_width)
    np.testing.assert_allclose(np.einsum("bnyxvu,bvund->byxnd", weights, value), expected, rtol=1e-5, atol=1e-5)


def test_relative_to_absolute_moves_offset_to_column():
    length = 4
    offsets = np.arange(-(length - 1), length)
    shifted = relative_to_absolute(
        jnp.broadcast_to(jnp.asarray(offsets), (2, length, 2 * length - 1)).astype(jnp.float32)
    )
    expected = np.arange(length)[None, :] - np.arange(length)[:, None]
    np.testing.assert_array_equal(shifted, np.broadcast_to(expected, (2, length, length)))


def broken(name, rng):
    query, key, value, rel_height, rel_width = oracle.inputs(rng, 2, 3, 5, 2, 7, 3)
    arguments = dict(query=query, key=key, value=value, rel_height=rel_height, rel_width=rel_width)
    changes = {
        "rank": {"query": query[0]},
        "key_heads": {"key": key[:, :, :, :1]},
        "value_heads": {"value": value[:, :, :, :1]},
        "value_map": {"value": value[:, :2]},
        "table_length": {"rel_height": rel_width},
        "table_depth": {"rel_width": rel_width[:, :-1]},
        "one_table": {"rel_width": None},
        "implementation": {"implementation": "fold"},
        "integers": {"query": query.astype(np.int32)},
        "mixed": {"value": jnp.asarray(value, jnp.bfloat16)},
        "scale": {"scale": "big"},
        "empty": {"query": query[:0], "key": key[:0], "value": value[:0]},
    }
    return {**arguments, **changes[name]}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("rank", ValueError, r"query must have shape \[b, h, w, n, dk\], got rank 4: \(3, 5, 2, 7\)"),
        ("key_heads", ValueError, r"key must have query's shape \(2, 3, 5, 2, 7\), got \(2, 3, 5, 1, 7\)"),
        ("value_heads", ValueError, r"value must have shape \(2, 3, 5, 2, 'dv'\) like query, got \(2, 3, 5, 1, 3\)"),
        ("value_map", ValueError, r"value must have shape \(2, 3, 5, 2, 'dv'\) like query"),
        ("table_length", ValueError, r"rel_height must have shape \[2h-1, dk\] = \(5, 7\) for a 3x5 map, got \(9, 7\)"),
        ("table_depth", ValueError, r"rel_width must have shape \[2w-1, dk\] = \(9, 7\) for a 3x5 map, got \(9, 6\)"),
        ("one_table", ValueError, r"rel_height and rel_width must both be given or both be None, got only rel_height"),
        ("implementation", ValueError, r"implementation must be one of 'auto', 'reference', .* got 'fold'"),
        ("integers", TypeError, r"query must be floating, got int32"),
        ("mixed", TypeError, r"value must have query's dtype float32, got bfloat16"),
        ("scale", TypeError, r"scale must be a finite Python number or None, got 'big'"),
        ("empty", ValueError, r"query must not be empty"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_errors_name_the_argument_what_came_and_what_is_accepted(rng, name, error, words):
    with pytest.raises(error, match=words):
        ops.relative_attention_2d(**broken(name, rng))


@pytest.mark.usefixtures("unchecked_shapes")
def test_numpy_and_traced_scales():
    ones = jnp.ones((1, 2, 3, 1, 5))
    ops.relative_attention_2d(ones, ones, ones, None, None, scale=np.float32(0.5))
    with pytest.raises(TypeError, match="multiply query for a learned one"):
        jax.jit(lambda s: ops.relative_attention_2d(ones, ones, ones, None, None, scale=s))(0.5)
