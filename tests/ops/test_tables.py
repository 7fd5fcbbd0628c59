import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import relative_attention_2d, resize_relative_table
from aa_flax.ops.reference import offset_index
from aa_flax.ops.tables import by_pair


def test_same_length_is_the_same_table(rng):
    table = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
    np.testing.assert_array_equal(resize_relative_table(table, 5), table)


@pytest.mark.parametrize("method", ["linear", "clamp", "error"])
def test_smaller_maps_keep_the_row_of_each_offset(rng, method):
    table = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
    small = resize_relative_table(table, 2, method=method)
    for offset in (-1, 0, 1):
        np.testing.assert_array_equal(small[offset + 1], table[offset + 4])


def test_linear_stretches_the_offsets():
    offsets = jnp.arange(-2, 3, dtype=jnp.float32)[:, None]  # each row of the table is its own offset
    large = resize_relative_table(offsets, 5, method="linear")
    np.testing.assert_allclose(large[:, 0], np.arange(-4, 5) / 2)


def test_linear_interpolates_between_rows(rng):
    table = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    large = resize_relative_table(table, 4, method="linear")
    assert large.shape == (7, 3)
    grid = np.linspace(0, 4, 7)
    expected = np.stack([np.interp(grid, np.arange(5), table[:, d]) for d in range(3)], -1)
    np.testing.assert_allclose(large, expected, rtol=1e-5, atol=1e-6)


def test_clamp_repeats_the_outermost_row(rng):
    table = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    large = resize_relative_table(table, 4, method="clamp")
    np.testing.assert_array_equal(large, table[np.array([0, 0, 0, 1, 2, 2, 2])])


def test_one_row_serves_every_offset(rng):
    table = jnp.asarray(rng.normal(size=(1, 2)), jnp.float32)
    np.testing.assert_allclose(resize_relative_table(table, 3), np.repeat(table, 5, 0))


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(rng):
    table = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    with pytest.raises(ValueError, match="serves maps up to 3 long, got 4"):
        resize_relative_table(table, 4, method="error")
    with pytest.raises(ValueError, match="table_resize must be one of .* got 'cubic'"):
        resize_relative_table(table, 4, method="cubic")
    with pytest.raises(ValueError, match="odd number of rows, 2\\*length-1, got 4"):
        resize_relative_table(table[:4], 2)


@pytest.mark.few(2)
@pytest.mark.parametrize("length", [1, 2, 3, 14])
def test_rows_of_all_pairs(rng, length):
    table = jnp.asarray(rng.normal(size=(2 * length - 1, 3)), jnp.float32)
    slope = jnp.asarray(rng.normal(size=(length, length, 3)), jnp.float32)
    found, pullback = jax.vjp(by_pair, table)
    expected, expected_pullback = jax.vjp(lambda table: table[offset_index(length)], table)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(pullback(slope)[0], expected_pullback(slope)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["paper", "folded", "folded_pieces"])
def test_no_gradient_scatters(implementation):
    """A GPU adds scattered values in any order, so that an H200 gave other bits in every run; one index is harmless."""
    shapes = [(16, 32, 24, 8, 20), (16, 32, 24, 8, 20), (16, 32, 24, 8, 2), (63, 20), (47, 20)]

    def loss(*arrays):
        return relative_attention_2d(*arrays, implementation=implementation).astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(loss, range(5))).lower(*(jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes))
    indices = re.findall(r"stablehlo.scatter.*?: \(tensor<\S+>, tensor<(\S+)>", lowered.as_text(), re.DOTALL)
    assert all(re.fullmatch(r"\d+xi32", shape) for shape in indices), indices
    assert bool(indices) == (implementation == "folded_pieces")
