"""Tests of attention pooling against its definition in NumPy float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AttentionPooling

FEATURES, HEIGHT, WIDTH = 11, 5, 7
QUICK = {"xla_backend_optimization_level": 0}


def built(rng, **options):
    """Return a layer with random parameters, layer scales from 0.2 to 0.6, and the parameters in float64."""
    layer = AttentionPooling(FEATURES, **options, rngs=nnx.Rngs(0))
    params = {}
    for path, leaf in nnx.to_flat_state(nnx.state(layer)):
        name = path[-1]
        if name.startswith("gamma"):
            value = rng.uniform(0.2, 0.6, leaf.shape)
        elif name == "scale":
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.normal(size=leaf.shape) / (1 if name in ("bias", "tokens") else math.sqrt(leaf.shape[0]))
        leaf[...] = jnp.asarray(value, leaf.dtype)
        params[".".join(path)] = np.asarray(leaf[...], np.float64)
    return layer, params


def run(layer, x):
    """Return (output tokens, weights over the map), from one program that is quick to compile."""
    graph, state = nnx.split(layer)

    def both(state, x):
        merged = nnx.merge(graph, state)
        return merged(x), merged.attention_weights(x)

    return jax.jit(both, compiler_options=QUICK)(state, x)


def linear(x, p, name):
    return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]


def normed(x, p, name):
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}.scale"] + p[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def one_image(x, p):
    """Return (output tokens, weights over all keys) of a map [h, w, c], by a loop over the tokens."""
    places = x.reshape(-1, x.shape[-1])
    if "reduce.kernel" in p:
        places = linear(places, p, "reduce")
    outputs, weights = [], []
    for token in p["tokens"]:
        seen = [token, *places] if len(p["tokens"]) == 1 else places
        u = normed(np.stack(list(seen)), p, "norm1")
        query = linear(normed(token, p, "norm1"), p, "query")
        logits = np.array([query @ linear(key, p, "key") for key in u]) / math.sqrt(len(token))
        a = np.exp(logits - logits.max())
        a /= a.sum()
        attended = sum(share * linear(key, p, "value") for share, key in zip(a, u, strict=True))
        z = token + p["gamma1"] * linear(attended, p, "out")
        z = z + p["gamma2"] * linear(gelu(linear(normed(z, p, "norm2"), p, "mlp1")), p, "mlp2")
        outputs.append(normed(z, p, "norm"))
        weights.append(a)
    return np.stack(outputs), np.stack(weights)


@pytest.mark.few(3)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("options", [{}, dict(width=13, mlp_ratio=1.5)], ids=["own", "reduced"])
def test_values(rng, tokens, options):
    layer, params = built(rng, tokens=tokens, **options)
    x = rng.normal(size=(2, HEIGHT, WIDTH, FEATURES))
    out, weights = zip(*(one_image(image, params) for image in x), strict=True)
    # float32 through four layers whose products sum over at most 39 terms
    found, maps = run(layer, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, out, rtol=2e-4, atol=2e-5)
    own = 1 if tokens == 1 else 0  # the first key is the token itself, which is no location of the map
    expected = np.stack(weights)[:, None, :, own:].reshape(2, 1, tokens, HEIGHT, WIDTH)
    np.testing.assert_allclose(maps, expected, rtol=2e-4, atol=1e-6)
    shares = np.asarray(maps, np.float64).sum((-2, -1))
    if tokens == 1:
        np.testing.assert_allclose(1 - shares[:, 0], np.stack(weights)[:, :, 0], rtol=1e-3, atol=1e-6)
        assert (shares < 0.999).all()
    else:
        np.testing.assert_allclose(shares, 1, rtol=1e-5)


def test_several_tokens_do_not_meet(rng):
    """Tokens do not attend to each other: the first two of three give the same without the third."""
    three, _ = built(rng, tokens=3)
    two = AttentionPooling(FEATURES, tokens=2, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(three))
    nnx.update(two, {**state, "tokens": state["tokens"][:2]})
    x = jnp.asarray(rng.normal(size=(2, HEIGHT, WIDTH, FEATURES)), jnp.float32)
    np.testing.assert_allclose(run(two, x)[0], run(three, x)[0][:, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 3])
def test_the_order_of_the_places_does_not_matter(rng, tokens):
    """The layer has no positions: if the map is turned, the weights turn and the tokens stay."""
    layer, _ = built(rng, tokens=tokens)
    x = jnp.asarray(rng.normal(size=(2, HEIGHT, WIDTH, FEATURES)), jnp.float32)
    turned = x.transpose(0, 2, 1, 3)[:, ::-1]
    (before, maps), (after, turned_maps) = run(layer, x), run(layer, turned)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(turned_maps, maps.transpose(0, 1, 2, 4, 3)[..., ::-1, :], rtol=1e-4, atol=1e-6)


def test_a_map_of_one_place_and_queries_that_change_nothing(rng):
    layer, _ = built(rng, tokens=3)
    x = jnp.asarray(rng.normal(size=(2, 1, 1, FEATURES)), jnp.float32)
    np.testing.assert_array_equal(layer.attention_weights(x), np.ones((2, 1, 3, 1, 1)))
    np.testing.assert_array_equal(layer.attention_weights(x, np.array([[0, 0]])), np.ones((2, 1, 3, 1, 1)))
    assert layer.attended_shape(HEIGHT, WIDTH) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("tokens", [1, 3])
def test_bfloat16(rng, tokens):
    """The tolerance is that of eight bits of mantissa after a few layers; the softmax stays in float32."""
    layer, params = built(rng, tokens=tokens, dtype=jnp.bfloat16)
    x = jnp.asarray(rng.normal(size=(2, HEIGHT, WIDTH, FEATURES)), jnp.bfloat16)
    out, maps = run(layer, x)
    assert out.dtype == jnp.bfloat16
    expected = np.stack([one_image(np.asarray(image, np.float64), params)[0] for image in x])
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0.05, atol=0.05)
    assert maps.dtype == jnp.float32
    if tokens > 1:
        np.testing.assert_allclose(maps.sum((-2, -1)), 1, rtol=1e-5)


def test_float64(rng):
    with jax.enable_x64(True):
        layer, params = built(rng, dtype=jnp.float64, param_dtype=jnp.float64)
        x = rng.normal(size=(1, HEIGHT, WIDTH, FEATURES))
        out, weights = one_image(x[0], params)
        found, maps = run(layer, jnp.asarray(x))
        np.testing.assert_allclose(found[0], out, rtol=1e-10)
        np.testing.assert_allclose(maps.ravel(), weights[0, 1:], rtol=1e-10)


@pytest.mark.few
@pytest.mark.parametrize(("tokens", "width"), [(1, None), (3, 13)])
def test_every_parameter_learns(rng, tokens, width):
    layer, _ = built(rng, tokens=tokens, width=width)
    graph, state = nnx.split(layer)
    x = jnp.asarray(rng.normal(size=(2, HEIGHT, WIDTH, FEATURES)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(2, tokens, width or FEATURES)), jnp.float32)
    gradient = jax.grad(lambda state: (nnx.merge(graph, state)(x) * target).sum())
    gradients = jax.jit(gradient, compiler_options=QUICK)(nnx.to_pure_dict(state))
    largest = {
        ".".join(str(key.key) for key in path): float(jnp.abs(g).max())
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
    }
    assert all(np.isfinite(value) for value in largest.values())
    # A key's bias shifts all logits of a query alike, which softmax ignores: the gradient is zero except for rounding.
    assert {name for name, value in largest.items() if value < 1e-5} == {"key.bias"}


@pytest.mark.parametrize("tokens", [1, 7])
def test_parameters(tokens):
    d = 16
    layer = nnx.eval_shape(lambda: AttentionPooling(d, tokens=tokens, rngs=nnx.Rngs(0)))
    assert count(layer) == 10 * d**2 + 14 * d + tokens * d + 2 * d
    reduced = nnx.eval_shape(lambda: AttentionPooling(24, width=d, tokens=tokens, rngs=nnx.Rngs(0)))
    assert count(reduced) == count(layer) + 24 * d + d
    thin = nnx.eval_shape(lambda: AttentionPooling(d, mlp_ratio=0.5, rngs=nnx.Rngs(0)))
    assert count(layer) - count(thin) == (tokens - 1) * d + 2 * d * (48 - 8) + (48 - 8)


def test_the_size_that_the_docstring_names():
    layer = nnx.eval_shape(lambda: AttentionPooling(2048, rngs=nnx.Rngs(0)))
    assert count(layer) == 10 * 2048**2 + 14 * 2048 + 2048 + 2 * 2048 == 41_977_856


def count(module):
    return sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)))


def test_initial_values():
    layer = AttentionPooling(64, tokens=50, layer_scale_init=1e-6, rngs=nnx.Rngs(0))
    for name, leaf in nnx.to_flat_state(nnx.state(layer)):
        values = np.asarray(leaf[...])
        if name[-1] in ("kernel", "tokens"):
            assert values.std() == pytest.approx(0.02, rel=0.1) and abs(values.mean()) < 0.002, name
        else:
            expected = 1e-6 if name[-1].startswith("gamma") else {"bias": 0, "scale": 1}[name[-1]]
            np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(rng):
    for options, words in (
        (dict(tokens=0), "tokens must be a whole number of at least 1, got 0"),
        (dict(width=0), "width must be a whole number of at least 1, got 0"),
        (dict(mlp_ratio=0.01), r"mlp_ratio \* width must be a whole number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            AttentionPooling(FEATURES, **options, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="features must be a whole number of at least 1, got 0"):
        AttentionPooling(0, rngs=nnx.Rngs(0))
    layer = AttentionPooling(FEATURES, rngs=nnx.Rngs(0))
    for shape in ((2, 5, 7, 12), (2, 35, FEATURES), (2, 0, 7, FEATURES)):
        for call in (layer, layer.attention_weights):
            with pytest.raises(ValueError, match=r"x must have shape \[b, h, w, features=11\], none of them 0, got"):
                call(jnp.zeros(shape))
