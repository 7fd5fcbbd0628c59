"""Tests of each attention module against its definition in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import BAM, CBAM, GALA, GatherExcite, SqueezeExcite


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def randomized(module, rng):
    """Return the module with random parameters and statistics, and these as NumPy float64."""
    draw = lambda v: jnp.asarray(rng.uniform(0.2, 1.0, v.shape) * rng.choice([-1, 1], v.shape), v.dtype)  # noqa: E731
    state = jax.tree.map(draw, nnx.to_pure_dict(nnx.state(module)))
    state = jax.tree_util.tree_map_with_path(lambda path, v: jnp.abs(v) if path[-1].key == "var" else v, state)
    nnx.update(module, state)
    return module, jax.tree.map(lambda v: np.asarray(v, np.float64), state)


def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def batch_norm(x, p):
    return (x - p["mean"]) / np.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]


def conv(x, p, dilation=1, stride=1, depthwise=False, padding=None):
    """Return a convolution by its definition; by default padding keeps the size."""
    kernel = p["kernel"]
    pads = [dilation * (k // 2) if padding is None else padding for k in kernel.shape[:2]]
    x = np.pad(x, ((0, 0), (pads[0],) * 2, (pads[1],) * 2, (0, 0)))
    reach = [dilation * (k - 1) + 1 for k in kernel.shape[:2]]
    h, w = ((size - r) // stride + 1 for size, r in zip(x.shape[1:3], reach, strict=True))
    out = 0.0
    for i, j in np.ndindex(*kernel.shape[:2]):
        rows = slice(i * dilation, i * dilation + stride * (h - 1) + 1, stride)
        piece = x[:, rows, j * dilation : j * dilation + stride * (w - 1) + 1 : stride]
        out = out + (piece * kernel[i, j, 0] if depthwise else piece @ kernel[i, j])
    return out + p.get("bias", 0.0)


def check(module, x, expected):
    np.testing.assert_allclose(jax.jit(module)(jnp.asarray(x, jnp.float32)), expected, rtol=2e-4, atol=2e-5)


@pytest.fixture
def x(rng):
    return rng.normal(size=(2, 9, 11, 12))


@pytest.mark.few
@pytest.mark.parametrize("use_bias", [True, False])
def test_squeeze_excite(rng, x, use_bias):
    module, p = randomized(SqueezeExcite(12, reduction=4, use_bias=use_bias, rngs=nnx.Rngs(0)), rng)
    logits = linear(relu(linear(x.mean((1, 2)), p["squeeze"])), p["excite"])
    check(module, x, x * sigmoid(logits)[:, None, None])
    assert sum(v.size for v in jax.tree.leaves(p)) == 2 * 12 * 3 + (3 + 12) * use_bias


def test_squeeze_excite_keeps_one_hidden_unit():
    assert SqueezeExcite(5, reduction=16, rngs=nnx.Rngs(0)).squeeze.kernel.shape == (5, 1)


@pytest.mark.few
@pytest.mark.parametrize("combine", ["add", "mul"])
def test_bam(rng, x, combine):
    module, p = randomized(BAM(12, reduction=4, combine=combine, dilation=2, rngs=nnx.Rngs(0)), rng)
    channel = linear(relu(batch_norm(linear(x.mean((1, 2)), p["squeeze"]), p["squeeze_bn"])), p["excite"])
    spatial = relu(batch_norm(conv(x, p["reduce"]), p["reduce_bn"]))
    spatial = relu(batch_norm(conv(spatial, p["conv1"], dilation=2), p["bn1"]))
    spatial = conv(relu(batch_norm(conv(spatial, p["conv2"], dilation=2), p["bn2"])), p["spatial"])
    channel = channel[:, None, None]
    check(module, x, x * (1 + sigmoid(channel + spatial if combine == "add" else channel * spatial)))


@pytest.mark.few
@pytest.mark.parametrize("use_bias", [True, False])
def test_cbam(rng, x, use_bias):
    module, p = randomized(CBAM(12, reduction=4, use_bias=use_bias, rngs=nnx.Rngs(0)), rng)
    mlp = lambda z: linear(relu(linear(z, p["squeeze"])), p["excite"])  # noqa: E731
    y = x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]
    pooled = np.stack([y.max(-1), y.mean(-1)], -1)
    check(module, x, y * sigmoid(batch_norm(conv(pooled, p["spatial"]), p["bn"])))


def test_cbam_starts_with_half_open_places_as_the_authors_code_does(rng, x):
    module = CBAM(12, reduction=4, rngs=nnx.Rngs(0))
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module)))
    mlp = lambda z: linear(relu(linear(z, p["squeeze"])), p["excite"])  # noqa: E731
    check(module, x, 0.5 * x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None])


@pytest.mark.few(2)
@pytest.mark.parametrize("squash", ["tanh", "sigmoid"])
@pytest.mark.parametrize("extra_conv", [True, False])
def test_gala(rng, x, squash, extra_conv):
    module = GALA(12, reduction=4, squash=squash, extra_conv=extra_conv, rngs=nnx.Rngs(0))
    module, p = randomized(module, rng)
    g = linear(relu(linear(x.mean((1, 2)), p["squeeze"])), p["excite"])[:, None, None]
    local = relu(conv(x, p["reduce"]))
    local = relu(conv(local, p["conv"])) if extra_conv else local
    local = conv(local, p["local"])
    logits = p["additive"] * (g + local) + p["multiplicative"] * (g * local)
    check(module, x, x * (np.tanh(logits) if squash == "tanh" else sigmoid(logits)))


def nearest(x, h, w):
    rows = np.floor((np.arange(h) + 0.5) * x.shape[1] / h).astype(int)
    columns = np.floor((np.arange(w) + 0.5) * x.shape[2] / w).astype(int)
    return x[:, rows][:, :, columns]


def test_gather_excite_without_parameters(rng, x):
    module = GatherExcite(12, rngs=nnx.Rngs(0))
    check(module, x, x * sigmoid(x.mean((1, 2), keepdims=True)))
    assert not jax.tree.leaves(nnx.state(module))


@pytest.mark.few
@pytest.mark.parametrize("extent", [2, 4])
def test_gather_excite_over_an_extent(rng, x, extent):
    module = GatherExcite(12, extent=extent, rngs=nnx.Rngs(0))
    reach = extent - 1
    pooled = np.stack(
        [
            np.stack(
                [
                    x[:, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1].mean((1, 2))
                    for j in range(0, 11, extent)
                ],
                1,
            )
            for i in range(0, 9, extent)
        ],
        1,
    )
    check(module, x, x * sigmoid(nearest(pooled, 9, 11)))


@pytest.mark.few(3)
@pytest.mark.parametrize("variant", ["theta", "theta_plus"])
@pytest.mark.parametrize("extent", [0, 4])
def test_gather_excite_with_parameters(rng, x, variant, extent):
    module = GatherExcite(12, variant=variant, extent=extent, map_shape=(9, 11), reduction=4, rngs=nnx.Rngs(0))
    module, p = randomized(module, rng)
    if extent:
        y = batch_norm(conv(x, p["gather1"], stride=2, depthwise=True), p["bn1"])
        y = batch_norm(conv(relu(y), p["gather2"], stride=2, depthwise=True), p["bn2"])
    else:
        y = batch_norm(conv(x, p["gather1"], depthwise=True, padding=0), p["bn1"])
    if variant == "theta_plus":
        y = linear(relu(linear(relu(y), p["mlp"]["squeeze"])), p["mlp"]["excite"])
    check(module, x, x * sigmoid(nearest(y, 9, 11)))


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(x):
    for layer in (SqueezeExcite, BAM, CBAM, GALA):
        with pytest.raises(ValueError, match="reduction must be at least 1, got 0"):
            layer(12, reduction=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="combine must be one of .* got 'max'"):
        BAM(12, combine="max", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="squash must be one of .* got 'relu'"):
        GALA(12, squash="relu", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="variant must be one of .* got 'theta_minor'"):
        GatherExcite(12, variant="theta_minor", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"extent must be 0 \(the whole map\), 2, 4 or 8, got 3"):
        GatherExcite(12, extent=3, rngs=nnx.Rngs(0))
    for shape in (None, 5, (5,), (5.0, 7), (0, 7)):
        with pytest.raises(ValueError, match=r"map_shape must be \(h, w\), both at least 1, .*, got"):
            GatherExcite(12, variant="theta", map_shape=shape, rngs=nnx.Rngs(0))
    assert GatherExcite(12, variant="theta", map_shape=(np.int64(7), 7), rngs=nnx.Rngs(0)).map_shape == (7, 7)
    module = GatherExcite(12, variant="theta", map_shape=(7, 7), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"kernel of \(7, 7\), the size of its map; got \(9, 11\)"):
        module(jnp.asarray(x, jnp.float32))
