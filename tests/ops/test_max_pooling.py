import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import max_pool
from aa_flax.ops.max_pooling import _by_window, _kept, _Windows

SIZES = [((7, 10), 2, 3), ((1, 1), 2, 3), ((8, 5), 1, 3), ((9, 4), 3, 5), ((12, 9), 2, 2), ((11, 13), 4, 3)]
CASES = [(*case, padding) for case in SIZES for padding in ("symmetric", "same")]


def span(length, stride, window, padding):
    """Return the number of windows along an axis and the padding before it, as the two frameworks document them."""
    if padding == "symmetric":
        before = (window - 1) // 2
        return (length + 2 * before - window) // stride + 1, before
    if length % stride == 0:
        return -(-length // stride), max(window - stride, 0) // 2
    return -(-length // stride), max(window - length % stride, 0) // 2


def pooled(x, cotangent, stride, window, padding):
    """Return maxima and gradient by loops; a pooling window's first maximum, row by row, gets all of its gradient."""
    b, h, w, c = x.shape
    (height, above), (width, left) = (span(length, stride, window, padding) for length in (h, w))
    y, gradient = np.empty((b, height, width, c)), np.zeros(x.shape)
    for n, i, j, k in np.ndindex(y.shape):
        best = None
        for u, v in np.ndindex(window, window):
            row, column = i * stride + u - above, j * stride + v - left
            if 0 <= row < h and 0 <= column < w and (best is None or x[n, row, column, k] > x[n, *best, k]):
                best = row, column
        y[n, i, j, k] = x[n, *best, k]
        gradient[n, *best, k] += cotangent[n, i, j, k]
    return y, gradient


@pytest.mark.few(14)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("size", "stride", "window", "padding"), CASES)
def test_values_and_gradients(rng, size, stride, window, padding, ties):
    shape = (2, *size, 3)
    x = rng.integers(0, 3, shape).astype(np.float64) if ties else rng.normal(size=shape)
    x = x.astype(np.float32)
    y, back = jax.vjp(lambda x: max_pool(x, stride, window, padding), jnp.asarray(x))
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    expected, gradient = pooled(x, cotangent, stride, window, padding)
    np.testing.assert_array_equal(y, expected)
    # Sums of up to ceil(window / stride)**2 numbers in another order.
    np.testing.assert_allclose(back(jnp.asarray(cotangent))[0], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize(("size", "stride", "window", "padding"), CASES)
def test_both_ways_are_one_function(rng, size, stride, window, padding):
    """The form for TPUs equals the other, with ties, in bfloat16."""
    x = jnp.asarray(rng.integers(0, 3, (2, *size, 3)), jnp.bfloat16)
    y, back = jax.vjp(lambda x: max_pool(x, stride, window, padding), x)
    other, other_back = jax.vjp(lambda x: _by_window(_Windows(stride, window, padding), x), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, other)
    cotangent = jnp.asarray(rng.integers(-4, 5, y.shape), jnp.bfloat16)  # sums of whole numbers are exact
    np.testing.assert_array_equal(back(cotangent)[0], other_back(cotangent)[0])


def test_a_nan_is_the_maximum_and_takes_the_gradient(rng):
    x = rng.normal(size=(1, 4, 4, 1)).astype(np.float32)
    x[0, 1, 1, 0] = np.nan
    y, back = jax.vjp(lambda x: max_pool(x, 2, 2), jnp.asarray(x))
    np.testing.assert_array_equal(np.isnan(np.asarray(y))[0, :, :, 0], [[True, False], [False, False]])
    assert back(jnp.ones_like(y))[0][0, 1, 1, 0] == 1


def test_a_window_of_the_least_number_keeps_its_gradient():
    x = jnp.full((1, 3, 3, 1), -jnp.inf)
    y, back = jax.vjp(lambda x: max_pool(x, 2), x)
    assert (y == -jnp.inf).all() and back(jnp.ones_like(y))[0].sum() == y.size


def test_a_byte_a_window_is_kept():
    """The forward pass keeps one byte for each pooling window, and nothing of the size of `x`."""
    x = jnp.zeros((3, 10, 14, 5))
    y, back = jax.vjp(lambda x: _kept(_Windows(2, 3, "symmetric"), x), x)
    assert [leaf.dtype for leaf in jax.tree.leaves(back) if leaf.size] == [jnp.int8]
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(back)) == y.size


def test_same_padding_has_its_odd_row_after_the_map():
    """3×3 at stride 2 on 4×6: the first window starts at the first location, the last one reaches beyond the map."""
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    np.testing.assert_array_equal(max_pool(x, 2, padding="same")[0, :, :, 0], [[14, 16, 17], [20, 22, 23]])
    np.testing.assert_array_equal(max_pool(x, 2)[0, :, :, 0], [[7, 9, 11], [19, 21, 23]])


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_each_platform_gets_its_way(platform):
    """The gradient is lowered for an absent platform."""
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 2).sum()))
    shape = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    program = jax.export.export(gradient, platforms=[platform])(shape).mlir_module()
    assert ("select_and_scatter" in program) == (platform == "tpu")
    assert "scatter" not in program or platform == "tpu"  # scatter would add in any order


@pytest.mark.parametrize(
    ("size", "window", "message"), [((20, 20), 12, "at most 11"), ((1, 7), 2, "larger than a padded 1x7 map")]
)
def test_windows_that_cannot_be_are_refused(size, window, message):
    with pytest.raises(ValueError, match=message):
        max_pool(jnp.zeros((1, *size, 1)), 2, window)


@pytest.mark.parametrize(("stride", "window"), [(0, 3), (-1, 3), (2, 0)])
def test_what_is_no_window(stride, window):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        max_pool(jnp.zeros((1, 5, 4, 1)), stride, window)


@pytest.mark.usefixtures("unchecked_shapes")
def test_another_padding_is_refused():
    with pytest.raises(ValueError, match=r"padding must be one of \('symmetric', 'same'\), got 'valid'"):
        max_pool(jnp.zeros((1, 5, 4, 1)), 2, 3, "valid")
