"""Tests of the feature pyramid and of the heads over its levels, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers.fpn import FPN, nearest
from aa_flax.layers.norm import batch_norm
from aa_flax.layers.pyramid_head import PyramidHead
from aa_flax.weights.arrays import fill_arrays, flat_arrays

CHANNELS = {3: 2, 4: 5, 5: 3}
SIZES = {3: (13, 8), 4: (7, 4), 5: (4, 2)}  # sides odd and even
WIDTH = 3


def conv(x, arrays, name, stride=1, before=None):
    """Return a convolution with bias, padded `before` on both axes and as much after it as the windows need."""
    kernel, bias = (arrays[f"{name}.{leaf}"].astype(np.float64) for leaf in ("kernel", "bias"))
    size = kernel.shape[0]
    before = (size // 2,) * 2 if before is None else before
    b, h, w, _ = x.shape
    y = np.zeros((b, -(-h // stride), -(-w // stride), kernel.shape[-1]))
    padded = np.pad(x, ((0, 0), (before[0], size), (before[1], size), (0, 0)))
    for i, j in np.ndindex(*y.shape[1:3]):
        window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
        y[:, i, j] = np.einsum("bijc,ijco->bo", window, kernel) + bias
    return y


def repeated(x, height, width):
    rows, columns = (
        np.floor(np.arange(n) * (m / n)).astype(int) for n, m in ((height, x.shape[1]), (width, x.shape[2]))
    )
    return x[:, rows][:, :, columns]


def pyramid(maps, arrays, padding, extra_from):
    """Return the maps of levels 3 to 7 before the norms."""
    tops = {5: conv(maps[5], arrays, "lateral5")}
    for level in (4, 3):
        lateral = conv(maps[level], arrays, f"lateral{level}")
        tops[level] = lateral + repeated(tops[level + 1], *lateral.shape[1:3])
    found = {level: conv(tops[level], arrays, f"output{level}") for level in (3, 4, 5)}
    for level in (6, 7):
        x = np.maximum(found[6], 0) if level == 7 else found[5] if extra_from == "pyramid" else maps[5]
        # TensorFlow pads an even side after the map only, an odd one on both ends.
        before = tuple(1 if padding == "symmetric" or side % 2 else 0 for side in x.shape[1:3])
        found[level] = conv(x, arrays, f"extra{level}", 2, before)
    return found


def drawn(rng, model):
    """Give every array random values, variances positive, and return them."""
    values = {
        path: rng.uniform(0.5, 1.5, a.shape) if path.endswith("var") else rng.normal(size=a.shape) * 0.3
        for path, a in flat_arrays(model).items()
    }
    fill_arrays(model, values)
    return {path: np.asarray(value, np.float64) for path, value in flat_arrays(model).items()}


def called(model, maps, **options):
    """Return a call's result, of one program."""
    graph, state = nnx.split(model)
    given = {level: jnp.asarray(x) for level, x in maps.items()}
    return jax.jit(lambda state, given: nnx.merge(graph, state, copy=True)(given, **options))(state, given)


def maps_of(rng):
    return {level: rng.normal(size=(2, *SIZES[level], CHANNELS[level])).astype(np.float32) for level in SIZES}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("padding", "extra_from"),
    [("same", "pyramid"), ("symmetric", "backbone"), ("same", "backbone"), ("symmetric", "pyramid")],
)
def test_values_of_odd_and_even_sides(rng, padding, extra_from):
    model = FPN(CHANNELS, width=WIDTH, padding=padding, extra_from=extra_from, rngs=nnx.Rngs(0))
    arrays, maps = drawn(rng, model), maps_of(rng)
    found = called(model, maps)
    expected = pyramid(maps, arrays, padding, extra_from)
    assert [*found] == [3, 4, 5, 6, 7] and found[6].shape == (2, 2, 1, WIDTH) and found[7].shape == (2, 1, 1, WIDTH)
    for level, x in expected.items():
        np.testing.assert_allclose(found[level], x, rtol=1e-5, atol=1e-5, err_msg=str(level))


def test_norms_come_last_and_are_each_levels_own(rng):
    """The extra levels read maps before the norms; in training each level has the statistics of its own map."""
    model = FPN(CHANNELS, width=WIDTH, norm=batch_norm, rngs=nnx.Rngs(0))
    arrays, maps = drawn(rng, model), maps_of(rng)
    given = {level: jnp.asarray(x) for level, x in maps.items()}
    before = pyramid(maps, arrays, "same", "pyramid")
    for level, x in called(model, maps).items():
        scale, bias, mean, var = (arrays[f"norm{level}.{leaf}"] for leaf in ("scale", "bias", "mean", "var"))
        expected = (before[level] - mean) / np.sqrt(var + 1e-5) * scale + bias
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4, err_msg=str(level))
    nnx.jit(lambda model, maps: model(maps, train=True))(model, given)
    for level in (3, 7):
        mean = 0.9 * arrays[f"norm{level}.mean"] + 0.1 * before[level].mean((0, 1, 2))
        np.testing.assert_allclose(flat_arrays(model)[f"norm{level}.mean"], mean, rtol=1e-4, atol=1e-5)


def test_a_pyramid_within_the_backbones_levels(rng):
    model = FPN({4: 5, 5: 3}, width=WIDTH, max_level=5, rngs=nnx.Rngs(0))
    found = called(model, maps_of(rng))  # level 3 is not read
    assert [*found] == [4, 5] and model.extra == () and not hasattr(model, "extra6")


def test_pooled_levels(rng):
    """Every second location of the level below, which for a 1×1 maximum is PyTorch's pooling; nothing is learnt."""
    model = FPN(CHANNELS, width=WIDTH, extra_from="pooling", init="fan_in", rngs=nnx.Rngs(0))
    assert not any("extra" in path for path in flat_arrays(model))
    bound = (3 / (5 * 1)) ** 0.5  # of a uniform distribution of variance 1 / fan in
    assert 0.7 * bound < np.abs(model.lateral4.kernel[...]).max() <= bound
    found = called(model, maps_of(rng))
    np.testing.assert_array_equal(found[6], found[5][:, ::2, ::2])
    np.testing.assert_array_equal(found[7], found[6][:, ::2, ::2])


def test_nearest_is_pytorchs():
    """Index floor(i · side / n), of any sizes; the common ones, 2n and 2n - 1, are made without a gather."""
    for before in (1, 5):
        for after in {before, 2 * before - 1, 2 * before, 3 * before + 1}:
            x = jnp.arange(2 * before * 3.0).reshape(1, before, 3, 2)
            index = np.floor(np.arange(after) * np.float32(before / after)).astype(int)
            np.testing.assert_array_equal(nearest(x, after, 3), np.asarray(x)[:, index])
            turned = x.transpose(0, 2, 1, 3)
            np.testing.assert_array_equal(nearest(turned, 3, after), np.asarray(turned)[:, :, index])
    jaxpr = jax.make_jaxpr(lambda x: nearest(x, 9, 16))(jnp.zeros((1, 5, 8, 2)))
    assert "gather" not in str(jaxpr)


def test_levels_that_cannot_be():
    make = lambda channels, **options: FPN(channels, **options, rngs=nnx.Rngs(0))  # noqa: E731
    for channels in ({}, {3: 2, 5: 3}, {5: 3, 4: 2}):
        with pytest.raises(ValueError, match="channels must be those of consecutive levels, finest first, got levels"):
            make(channels)
    for most in (4, 14):
        with pytest.raises(ValueError, match=rf"max_level must lie in \[5, 13\], .* got {most}"):
            make(CHANNELS, max_level=most)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        make(CHANNELS, width=0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_words_that_are_not_known():
    with pytest.raises(ValueError, match=r"padding must be one of \('symmetric', 'same'\), got 'valid'"):
        FPN(CHANNELS, padding="valid", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"extra_from must be one of \('pyramid', 'backbone', 'pooling'\), got 'c5'"):
        FPN(CHANNELS, extra_from="c5", rngs=nnx.Rngs(0))


# Heads


def test_a_head_shares_convolutions_and_not_norms(rng):
    """Two levels, two convolutions: in training, each level is normalised by its own statistics."""
    model = PyramidHead(3, 4, levels=(3, 4), depth=2, width=5, norm=batch_norm, rngs=nnx.Rngs(0))
    arrays = drawn(rng, model)
    maps = {level: rng.normal(size=(2, side, 4, 3)).astype(np.float32) for level, side in ((3, 5), (4, 2))}
    for train in (False, True):
        found = called(model, maps, train=train)
        for level, x in maps.items():
            for i in (1, 2):
                x = conv(x, arrays, f"conv{i}")
                norm = {leaf: arrays[f"norm{i}_level{level}.{leaf}"] for leaf in ("scale", "bias", "mean", "var")}
                mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (norm["mean"], norm["var"])
                x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
            np.testing.assert_allclose(found[level], conv(x, arrays, "out"), rtol=1e-4, atol=1e-4)


def test_a_head_starts_at_its_prior():
    model = PyramidHead(3, 4, levels=(3,), depth=1, width=64, prior=0.01, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(model.out.bias[...], -np.log(99), rtol=1e-6)
    assert not model.conv1.bias[...].any() and abs(float(model.out.kernel[...].std()) - 0.01) < 1e-3
    y = model({3: jnp.zeros((1, 2, 3, 3))})[3]
    np.testing.assert_allclose(jax.nn.sigmoid(y), 0.01, rtol=1e-5)
    low = PyramidHead(3, 4, levels=(3,), depth=0, width=6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = low({3: jnp.ones((1, 2, 3, 3), jnp.bfloat16)})[3]
    assert y.dtype == jnp.float32 and not hasattr(low, "conv1") and not low.out.bias[...].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=-1), "depth must be at least 0"),
        (dict(width=0), "width at least 1"),
        (dict(prior=1.0), "prior must"),
    ],
)
def test_heads_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        PyramidHead(3, 4, levels=(3,), **options, rngs=nnx.Rngs(0))
