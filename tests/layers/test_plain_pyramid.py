"""Tests of the transposed convolution and of the pyramid from maps of one stride."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import PlainPyramid, TransposedConv2x2
from aa_flax.layers.plain_pyramid import PyramidOptions
from aa_flax.weights.arrays import fill_arrays, flat_arrays

FEATURES = 5


def transposed(x, arrays, name):
    """Return each location's own four values, by definition."""
    kernel, bias = arrays[f"{name}.kernel"], arrays[f"{name}.bias"]
    b, h, w, _ = x.shape
    y = np.zeros((b, 2 * h, 2 * w, kernel.shape[-1]))
    for i, j in np.ndindex(2, 2):
        y[:, i::2, j::2] = x @ kernel[i, j] + bias
    return y


def drawn(rng, model):
    values = {path: rng.uniform(0.2, 1.0, a.shape) for path, a in flat_arrays(model).items()}
    fill_arrays(model, values)
    return {path: np.asarray(value, np.float64) for path, value in flat_arrays(model).items()}


def normed(x, arrays, name, axes):
    """Return layer norm (axes -1), batch norm in training (the others) or, with None, by running statistics."""
    scale, bias = arrays[f"{name}.scale"], arrays[f"{name}.bias"]
    if axes is None:
        mean, var = arrays[f"{name}.mean"], arrays[f"{name}.var"]
    else:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + (1e-6 if axes == -1 else 1e-5)) * scale + bias


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("norm", "tap_norm", "train"),
    [("batch", False, True), ("layer", True, False), ("batch", False, False), ("batch", True, True)],
)
def test_maps_by_definition(rng, norm, tap_norm, train):
    """Of a map of 3×4 locations: 12×16, 6×8, itself, and 2×2 with the odd side filled up."""
    model = PlainPyramid(FEATURES, norm=norm, tap_norm=tap_norm, rngs=nnx.Rngs(0))
    arrays = drawn(rng, model)
    taps = {level: rng.normal(size=(2, 3, 4, FEATURES)).astype(np.float32) for level in (2, 3, 4, 5)}
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, taps: nnx.merge(graph, state, copy=True)(taps, train=train))
    found = run(state, {level: jnp.asarray(x) for level, x in taps.items()})
    x = {level: normed(x, arrays, f"tap_norm{level}", -1) if tap_norm else x for level, x in taps.items()}
    between = transposed(x[2], arrays, "level2_up1")
    axes = -1 if norm == "layer" else (0, 1, 2) if train else None
    between = normed(between, arrays, "level2_norm", axes)
    between = between * (1 + np.vectorize(math.erf)(between / np.sqrt(2))) / 2
    largest = [[x[5][:, :2, j : j + 2].max((1, 2)), x[5][:, 2:, j : j + 2].max((1, 2))] for j in (0, 2)]
    expected = {
        2: transposed(between, arrays, "level2_up2"),
        3: transposed(x[3], arrays, "level3_up1"),
        4: x[4],
        5: np.stack([np.stack(column, 1) for column in largest], 2),
    }
    assert [*found] == [2, 3, 4, 5]
    for level, y in expected.items():
        np.testing.assert_allclose(found[level], y, rtol=1e-4, atol=1e-4, err_msg=str(level))


def test_levels_that_are_not_kept_have_no_parameters(rng):
    model = PlainPyramid(FEATURES, tap_norm=True, rngs=nnx.Rngs(0))
    model.keep([3, 5])
    assert {path.split(".")[0] for path in flat_arrays(model)} == {"level3_up1", "tap_norm3", "tap_norm5"}
    found = model({level: jnp.ones((1, 2, 2, FEATURES)) for level in (3, 5)})
    assert {level: x.shape for level, x in found.items()} == {3: (1, 4, 4, FEATURES), 5: (1, 1, 1, FEATURES)}


def test_transposed_convolution_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    ours = TransposedConv2x2(3, 4, rngs=nnx.Rngs(0))
    theirs = torch.nn.ConvTranspose2d(3, 4, 2, stride=2)
    theirs.weight.data.copy_(torch.from_numpy(np.array(ours.kernel[...]).transpose(2, 3, 0, 1).copy()))
    theirs.bias.data.copy_(torch.from_numpy(np.array(ours.bias[...])))
    x = rng.normal(size=(2, 5, 3, 3)).astype(np.float32)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_initial_values_of_the_transposed_convolution():
    layer = TransposedConv2x2(40, 100, rngs=nnx.Rngs(0))
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.95 / 20 < float(jnp.abs(values).max()) <= 1 / 20


def test_taps():
    """The ends of the quarters; a network of fewer than four blocks has some twice."""
    assert PyramidOptions().taps(60) == (14, 29, 44, 59) and PyramidOptions().taps(12) == (2, 5, 8, 11)
    assert PyramidOptions().taps(2) == (0, 0, 1, 1) and PyramidOptions().taps(1) == (0, 0, 0, 0)
    assert PyramidOptions(pyramid_taps=(3, 5, 7, 11)).taps(12) == (3, 5, 7, 11)
    for taps in ((0, 1, 2), (0, 2, 1, 3), (0, 1, 2, 4), (-1, 0, 1, 2)):
        with pytest.raises(
            ValueError, match=r"pyramid_taps must be four numbers of blocks in their order, from 0 to 3"
        ):
            PyramidOptions(pyramid_taps=taps).taps(4)


@pytest.mark.usefixtures("unchecked_shapes")
def test_norms_that_are_not_known():
    with pytest.raises(ValueError, match=r"pyramid_norm must be one of \('batch', 'layer'\), got 'group'"):
        PyramidOptions(pyramid_norm="group")
