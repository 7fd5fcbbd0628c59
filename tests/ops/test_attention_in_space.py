"""Tests of attention over signals, maps and volumes: values, gradients, padding that hides keys, and refusals."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax import ops
from aa_flax.ops import folded_pieces as pieces
from aa_flax.ops.choice import choose
from aa_flax.ops.pieces import Budget
from aa_flax.ops.platform import traced_for
from aa_flax.ops.reference import attention_logits

sys.path.insert(0, str(Path(__file__).parent))
import space_oracle as oracle

SPACES = [(7,), (2, 3, 5), (3, 5), (1,), (5, 1, 2)]
SIZES = 2, 3, 5, 4  # b, n, dk, dv
KERNELS = ("pallas_tpu_interpret", "pallas_gpu_interpret", "paper")


def some(rng, space, batch=2):
    """Return which locations are valid: in the first image about half of them, in the last none."""
    valid = rng.random((batch, *space)) < 0.6
    valid[0].flat[-1] = True
    valid[-1] = False
    return jnp.asarray(valid)


def value_and_gradients(arrays, cotangent, valid=None, **options):
    def weighted(query, key, value, tables):
        output = ops.relative_attention(query, key, value, tables, valid=valid, **options)
        return jnp.sum(output * cotangent), output

    (_, output), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2, 3), has_aux=True))(*arrays)
    return output, [*gradients[:3], *gradients[3]]


def check(rng, space, implementation, *, masked, without=(), scale=0.5):
    b, n, dk, dv = SIZES
    arrays = oracle.inputs(rng, b, space, n, dk, dv, without=without)
    valid = some(rng, space) if masked else None
    cotangent = rng.normal(size=arrays[2].shape).astype(np.float32)
    expected, wanted = oracle.attend(*arrays, scale, valid, cotangent)
    output, gradients = value_and_gradients(arrays, cotangent, valid, implementation=implementation, scale=scale)
    # float32 sums of at most 30 terms of order one, as in the tests of two dimensions
    np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-5)
    for gradient, own in zip(gradients, wanted, strict=True):
        assert (gradient is None) == (own is None)
        if own is not None:
            np.testing.assert_allclose(gradient, own, rtol=1e-4, atol=1e-4)
    if masked:  # nothing is valid in the last image: its outputs are 0, and nothing has a gradient by them
        assert not np.asarray(output[-1]).any()
        assert not any(np.asarray(gradient[-1]).any() for gradient in gradients[:3])


@pytest.mark.few(2, thorough=6)
@pytest.mark.parametrize("implementation", ["folded_pieces", "reference", "folded"])
@pytest.mark.parametrize("masked", [True, False], ids=["valid", "all"])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_value_and_gradients_equal_brute_force(rng, monkeypatch, space, masked, implementation):
    monkeypatch.setattr(pieces, "budget", lambda: Budget(0, 400))  # pieces of a few rows or queries
    check(rng, space, implementation, masked=masked)


@pytest.mark.thorough
@pytest.mark.parametrize("implementation", KERNELS)
@pytest.mark.parametrize("space", [(7,)], ids=str)
def test_kernels_serve_signals_and_padding(rng, space, implementation):
    check(rng, space, implementation, masked=True)


@pytest.mark.few(1, thorough=4)
@pytest.mark.parametrize("scale", [-0.7, 0.0, 40.0])
@pytest.mark.parametrize("implementation", ["folded", "folded_pieces", "paper"])
def test_hidden_keys_stay_hidden_at_any_scale(rng, implementation, scale):
    arrays = oracle.inputs(rng, 2, (7,), 3, 5, 4)
    valid = some(rng, (7,))
    expected, _ = oracle.attend(*arrays, scale, valid)
    output = ops.relative_attention(*arrays, valid=valid, implementation=implementation, scale=scale)
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3)  # logits of some hundreds at scale 40


@pytest.mark.few(1, thorough=3)
@pytest.mark.parametrize("without", [(0, 2), (1,), (0, 1, 2)], ids=str)
def test_an_axis_without_table_has_no_position(rng, without):
    check(rng, (2, 3, 5), "folded", masked=False, without=without)
    check(rng, (3, 5), "folded_pieces", masked=True, without=[axis for axis in without if axis < 2][:1])


def test_no_tables_at_all(rng):
    query, key, value, _ = oracle.inputs(rng, 2, (7,), 2, 3, 4)
    expected, _ = oracle.attend(query, key, value, [None], 3**-0.5)
    np.testing.assert_allclose(ops.relative_attention(query, key, value), expected, rtol=2e-5, atol=2e-5)


def test_two_dimensions_are_relative_attention_2d(rng):
    query, key, value, tables = oracle.inputs(rng, 2, (3, 5), 3, 5, 4)
    same = ops.relative_attention_2d(query, key, value, *tables)
    np.testing.assert_array_equal(ops.relative_attention(query, key, value, tables), same)


@pytest.mark.few(1)
@pytest.mark.parametrize("space", [(3, 4, 5), (7,)], ids=str)
def test_logits_of_a_shifted_pattern_are_shifted(rng, space):
    """Between two of a pattern's locations the logit depends on their offset, and not on where the pattern lies."""
    query, key, _, tables = oracle.inputs(rng, 1, space, 2, 5, 4)
    shift = (1,) * len(space)
    moved = [jnp.roll(x, shift, range(1, 1 + len(space))) for x in (query, key)]
    here, there = (np.asarray(attention_logits(*pair, tables, 0.5)) for pair in ((query, key), moved))
    first, second = ((slice(None, -1),) * (2 * len(space)), (slice(1, None),) * (2 * len(space)))
    np.testing.assert_allclose(there[(..., *second)], here[(..., *first)], rtol=1e-5, atol=1e-5)
    assert np.abs(here[(..., *second)] - here[(..., *first)]).min() > 1e-6  # the pattern does matter


@pytest.mark.few(1)
@pytest.mark.parametrize("implementation", ["folded_pieces", "reference"])
def test_a_padded_signal_gives_what_it_gives_alone_whatever_the_padding_holds(rng, implementation):
    query, key, value, (table,) = oracle.inputs(rng, 1, (7,), 3, 5, 4)
    alone = ops.relative_attention(*(x[:, :4] for x in (query, key, value)), (table[3:-3],))
    valid = jnp.arange(7)[None] < 4
    padded = [jnp.where(valid[..., None, None], x, np.nan) for x in (key, value)]
    options = dict(valid=valid, implementation=implementation)

    def attended(key, value):
        return ops.relative_attention(query, key, value, (table,), **options)

    np.testing.assert_allclose(attended(*padded)[:, :4], alone, rtol=2e-5, atol=2e-5)
    gradients = jax.grad(lambda *pair: attended(*pair).sum(), (0, 1))(*padded)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and not np.asarray(gradient[:, 4:]).any()


@pytest.mark.few(1)
@pytest.mark.parametrize("implementation", ["folded_pieces", "folded", "reference"])
@pytest.mark.parametrize("space", [(7,), (2, 3, 5)], ids=str)
def test_bfloat16_stays_within_its_roundings(rng, space, implementation):
    *arrays, tables = oracle.inputs(rng, 2, space, 3, 5, 4, dtype=jnp.bfloat16)
    valid = some(rng, space)
    query, key, value = (np.asarray(x, np.float64) for x in arrays)
    exact = [np.asarray(table, np.float64) for table in tables]
    scale = 5**-0.5
    expected, _ = oracle.attend(query, key, value, exact, scale, valid)
    output = ops.relative_attention(*arrays, tables, valid=valid, implementation=implementation)
    assert output.dtype == jnp.bfloat16
    # The bound of the tests of two dimensions, with a position term for each axis.
    u = 2.0**-9
    reach = np.abs(key).max(tuple(range(key.ndim - 1))) + sum(np.abs(table).max(0) for table in exact)
    logit_error = 2 * u * scale * (np.abs(query) @ reach)
    bound = ((2 * logit_error + 3 * u) * np.abs(value).max())[..., None]
    np.testing.assert_array_less(np.abs(np.asarray(output, np.float64) - expected) - bound, 0)
    assert np.median(bound) < 0.5  # the bound is worth something: values are of order one


@pytest.mark.few(1)
@pytest.mark.parametrize("space", [(2, 3, 5), (7,)], ids=str)
def test_weights_sum_to_one_over_the_valid_keys_and_few_queries_equal_all(rng, space):
    query, key, value, tables = oracle.inputs(rng, 2, space, 3, 5, 4)
    valid = some(rng, space)
    weights = np.asarray(ops.relative_attention_weights(query, key, tables, valid=valid, scale=0.5))
    assert weights.shape == (2, 3, *space, *space)
    flat = weights.reshape(2, 3, np.prod(space), -1)
    np.testing.assert_allclose(flat[0].sum(-1), 1, rtol=1e-6)
    assert not flat[1].any() and not flat[0][..., ~np.asarray(valid[0]).ravel()].any()
    made = np.einsum("bnij,bjnd->bind", flat, np.asarray(value).reshape(2, -1, 3, 4)).reshape(value.shape)
    np.testing.assert_allclose(
        ops.relative_attention(query, key, value, tables, valid=valid, scale=0.5), made, atol=1e-5
    )
    queries = np.stack([rng.integers(0, space) for _ in range(3)])
    few = ops.relative_attention_weights(query, key, tables, valid=valid, queries=queries, scale=0.5)
    np.testing.assert_allclose(few, weights[(..., *queries.T, *[slice(None)] * len(space))], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_auto_never_gives_a_volume_to_a_kernel(platform):
    with traced_for(platform):
        chosen = {
            dtype: choose(dtype, 64, 8, 2, 20, 4, True, batch=2, dimensions=3) for dtype in ("bfloat16", "float32")
        }
    assert {*chosen.values()} <= {"folded", "folded_pieces"}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"query": (2, 3, 5)},
            ValueError,
            r"\[b, l, n, dk\] or \[b, h, w, n, dk\] or \[b, d, h, w, n, dk\], got rank 3",
        ),
        ({"query": (1,) * 7}, ValueError, "got rank 7"),
        (
            {"value": (2, 6, 3, 4)},
            ValueError,
            r"value must have shape \(2, 7, 3, 'dv'\) like query, got \(2, 6, 3, 4\)",
        ),
        ({"tables": [(13, 5)] * 2}, ValueError, r"tables must be one for each axis \(rel_length\).* got 2"),
        ({"tables": [(11, 5)]}, ValueError, r"rel_length must have shape \[2l-1, dk\] = \(13, 5\) for a 7 map"),
        ({"valid": np.ones((2, 7), np.float32)}, TypeError, "valid must be bool, got float32"),
        ({"valid": np.ones((2, 6), bool)}, ValueError, r"valid must have shape \(2, 7\) like query, got \(2, 6\)"),
        ({"implementation": "kernel"}, ValueError, "implementation must be one of"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_errors_name_the_argument_what_came_and_what_is_accepted(changes, error, words):
    given = {"query": (2, 7, 3, 5), "key": (2, 7, 3, 5), "value": (2, 7, 3, 4), "tables": [(13, 5)], **changes}
    options = {name: given.pop(name) for name in ("valid", "implementation") if name in given}
    tables = [jnp.ones(shape) for shape in given.pop("tables")]
    with pytest.raises(error, match=words):
        ops.relative_attention(*(jnp.ones(shape) for shape in given.values()), tables, **options)


@pytest.mark.parametrize("implementation", ["paper", "pallas_tpu", "pallas_gpu", "cudnn"])
def test_kernels_refuse_volumes(implementation):
    ones = jnp.ones((1, 2, 3, 5, 2, 4))
    with pytest.raises(ValueError, match=f"'{implementation}' serves one and two dimensions, got three: use 'auto'"):
        ops.relative_attention(ones, ones, ones, implementation=implementation)
