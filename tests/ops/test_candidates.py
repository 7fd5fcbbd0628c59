import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax import ops

top_candidates = jax.jit(ops.top_candidates, static_argnames=("k", "score_threshold"))


def sorted_all(logits, k):
    """Return logits, anchors and classes of the first k in a stable sort of all, NaN as if it were -inf."""
    flat = np.where(np.isnan(logits), -np.inf, logits).ravel()
    order = np.argsort(-flat, kind="stable")[:k]
    return flat[order], order // logits.shape[1], order % logits.shape[1]


def equal(found, expected):
    for one, other in zip(found[:3], expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("levels", [3, 40, 10**6])
@pytest.mark.parametrize(
    ("anchors", "classes", "k"),
    [(61, 12, 50), (61, 12, 7), (20, 12, 50), (40, 7, 30), (300, 1, 17), (4, 5, 100), (9, 91, 60), (50, 4, 1)],
)
def test_it_is_a_stable_sort_of_all(rng, anchors, classes, k, levels):
    """From few levels all logits have many equals, from many none."""
    logits = (rng.integers(0, levels, (anchors, classes)) / 8).astype(np.float32)
    found = top_candidates(logits, k)
    assert len(found.logits) == min(k, anchors * classes) and found.valid.all()
    equal(found, sorted_all(logits, k))


def test_all_logits_equal():
    found = top_candidates(np.zeros((30, 6), np.float32), 20)
    np.testing.assert_array_equal(found.anchors, np.arange(20) // 6)
    np.testing.assert_array_equal(found.classes, np.arange(20) % 6)


def test_several_classes_of_one_anchor():
    logits = np.full((50, 8), -9, np.float32)
    logits[33, 2:7] = [1, 5, 3, 5, 2]
    found = top_candidates(logits, 4)
    assert found.anchors.tolist() == [33] * 4 and found.classes.tolist() == [3, 5, 4, 6]


def test_order_is_by_logit_where_scores_are_1():
    logits = np.array([[20, 40.0, 30], [25, 41, 10]], np.float32)
    assert (jax.nn.sigmoid(logits)[0] == 1).all()
    found = top_candidates(logits, 3, 0.5)
    np.testing.assert_array_equal(found.logits, [41, 40, 30])
    assert found.valid.all()


def test_scores_must_exceed_the_threshold():
    logits = np.array([[0, 1e-6, -1e-6, 3]], np.float32)
    assert top_candidates(logits, 4, 0.5).valid.tolist() == [True, True, False, False]
    assert top_candidates(logits, 4, 0).valid.all() and not top_candidates(logits, 4, 1).valid.any()
    found = top_candidates(
        np.array([[math.log(0.05 / 0.95) + 0.01, math.log(0.05 / 0.95) - 0.01]], np.float32), 2, 0.05
    )
    assert found.valid.tolist() == [True, False]


def test_neither_nan_nor_minus_infinity_is_a_candidate(rng):
    logits = rng.normal(size=(40, 6)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.5] = np.nan
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    found, number = top_candidates(logits, 150), np.isfinite(logits).sum()
    assert 30 < number < 150
    np.testing.assert_array_equal(found.valid, np.arange(150) < number)
    equal([array[:number] for array in found], [array[:number] for array in sorted_all(logits, 150)])


def test_vmap_types_and_jit(rng):
    logits = jnp.asarray(rng.integers(-9, 9, (3, 25, 9)), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        together = jax.jit(jax.vmap(lambda one: ops.top_candidates(one, 14, 0.1)))(logits)
    assert together.logits.dtype == jnp.float32
    for number, one in enumerate(logits):
        equal([array[number] for array in together], sorted_all(np.asarray(one, np.float32), 14))
    for one, other in zip(ops.top_candidates(logits[0], 14, 0.1), together, strict=True):
        np.testing.assert_array_equal(one, other[0])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_nothing_sorts_all_pairs(platform):
    """Of the 6.9 million pairs at 640×640, at most the anchors or ten pairs for each candidate are sorted at once."""
    function = jax.jit(lambda logits: ops.top_candidates(logits, 5000))
    shape = jax.ShapeDtypeStruct((76_725, 90), jnp.float32)
    program = jax.export.export(function, platforms=[platform])(shape).mlir_module()
    sorts = [line for line in program.splitlines() if re.search(r"top_?k|stablehlo\.sort", line, re.IGNORECASE)]
    lengths = [
        int(n) for line in sorts for shape in re.findall(r"tensor<([\dx]+)x[if]\d+>", line) for n in shape.split("x")
    ]
    assert len(sorts) >= 5 and max(lengths) == 76_725


@pytest.mark.usefixtures("unchecked_shapes")
def test_no_candidates_asked_for():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ops.top_candidates(np.zeros((3, 4), np.float32), 0)
