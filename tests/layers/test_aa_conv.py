"""Tests of the layer against an independent NumPy forward pass, and of properties that every port must keep."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv2D
from aa_flax.ops.platform import traced_for

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))
import attention_oracle as oracle


def layer(in_features=5, out_features=14, kernel_size=3, **changes):
    options = dict(num_heads=2, key_depth=6, value_depth=4, spatial_shape=(5, 7))
    return AAConv2D(in_features, out_features, kernel_size, **{**options, "rngs": nnx.Rngs(3), **changes})


def params(module):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def random_input(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def conv(x, kernel, stride, bias=0.0):
    """Return a convolution by its definition, with padding (k-1)//2."""
    k, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    b, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.zeros((b, (h - 1) // stride + 1, (w - 1) // stride + 1, kernel.shape[-1]))
    for i, j in np.ndindex(out.shape[1:3]):
        patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
        out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out + bias


def pool(x, stride):
    b, h, w, c = x.shape
    out = np.zeros((b, -(-h // stride), -(-w // stride), c))
    for i, j in np.ndindex(out.shape[1:3]):
        rows = slice(max(stride * i - 1, 0), stride * i + 2)
        out[:, i, j] = x[:, rows, max(stride * j - 1, 0) : stride * j + 2].mean((1, 2))
    return out


def upsample(x, size):
    for axis, length in zip((1, 2), size, strict=True):
        centres = (np.arange(length) + 0.5) * x.shape[axis] / length - 0.5
        grid = np.arange(x.shape[axis])
        x = np.apply_along_axis(lambda line, at=centres, on=grid: np.interp(at, on, line), axis, x)
    return x


def expected_output(module, x, strides=1, downsample=1):
    """Return concat(conv, attention) from the parameters alone, for relative positions or none."""
    p, x = params(module), np.asarray(x, np.float64)
    n, dk, dv = module.num_heads, module.key_depth, module.value_depth
    branches = [conv(x, p["conv"]["kernel"], strides, p["conv"].get("bias", 0.0))] if "conv" in p else []
    size = tuple(-(-s // strides) for s in x.shape[1:3])
    attended = pool(x, strides) if strides > 1 else x
    attended = pool(attended, downsample) if downsample > 1 else attended
    qkv = attended @ p["qkv"]["kernel"][0, 0] + p["qkv"].get("bias", 0.0)
    b, h, w, _ = qkv.shape
    q, k, v = (part.reshape(b, h, w, n, -1) for part in np.split(qkv, [dk, 2 * dk], -1))
    heads, _ = oracle.attend(q, k, v, p.get("rel_height"), p.get("rel_width"), (dk / n) ** -0.5)
    out = heads.reshape(b, h, w, dv) @ p["out"]["kernel"][0, 0] + p["out"].get("bias", 0.0)
    return np.concatenate([*branches, upsample(out, size)], -1)


# height, width, strides, attention_downsample: even and odd, h != w
@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("h", "w", "strides", "downsample"), [(5, 7, 1, 1), (6, 3, 2, 1), (7, 5, 1, 2), (9, 6, 2, 2), (5, 4, 1, 3)]
)
@pytest.mark.parametrize("use_bias", [False, True])
def test_equals_the_definition(rng, h, w, strides, downsample, use_bias):
    attended = tuple(math.ceil(math.ceil(s / strides) / downsample) for s in (h, w))
    module = layer(strides=strides, attention_downsample=downsample, spatial_shape=attended, use_bias=use_bias)
    if use_bias:
        for part in (module.conv, module.qkv, module.out):
            part.bias[...] = random_input(rng, *part.bias.shape)
    x = random_input(rng, 2, h, w, 5)
    output = jax.jit(module)(x)
    assert output.shape == (2, -(-h // strides), -(-w // strides), 14)
    np.testing.assert_allclose(output, expected_output(module, x, strides, downsample), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["none", "relative"])
def test_fully_attentional_and_purely_convolutional(rng, position):
    x = random_input(rng, 2, 5, 7, 5)
    attention = layer(value_depth=14, position=position)
    assert attention.conv is None
    np.testing.assert_allclose(jax.jit(attention)(x), expected_output(attention, x), rtol=1e-4, atol=1e-4)
    convolution = layer(value_depth=0, position=position)
    assert [convolution.qkv, convolution.out, convolution.rel_height, convolution.rel_width] == [None] * 4
    assert not convolution.attends
    expected = conv(np.asarray(x), params(convolution)["conv"]["kernel"], 1)
    np.testing.assert_allclose(jax.jit(convolution)(x), expected, rtol=1e-4, atol=1e-5)


def test_value_depth_that_rounds_to_zero_is_a_plain_convolution():
    module = AAConv2D(5, 16, 3, num_heads=8, upsilon=0.1, spatial_shape=(5, 7), rngs=nnx.Rngs(0))
    assert module.value_depth == 0
    assert list(params(module)) == ["conv"]


def test_explicit_depths_win_over_ratios_and_minimum():
    module = AAConv2D(5, 16, 3, num_heads=2, key_depth=4, value_depth=6, spatial_shape=(5, 7), rngs=nnx.Rngs(0))
    assert (module.key_depth, module.value_depth) == (4, 6)
    assert module.rel_width.shape == (13, 2)


def test_sine_is_added_and_coordconv_concatenated_to_the_attention_input_only(rng):
    x = random_input(rng, 2, 5, 7, 5)
    sine = layer(position="sine", spatial_shape=None)
    plain = layer(position="none", spatial_shape=None)
    offset = sine.attention_input(x) - x
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:1], x.shape), atol=1e-6)
    assert np.abs(offset).max() > 0.9
    np.testing.assert_array_equal(sine(x)[..., :10], plain(x)[..., :10])  # same seed: the convolution sees no position
    coordconv = layer(position="coordconv", spatial_shape=None)
    seen = coordconv.attention_input(x)
    assert seen.shape == (2, 5, 7, 8)
    np.testing.assert_array_equal(seen[..., :5], x)
    np.testing.assert_allclose(seen[1, 4, 0, 5:], [-1, 1, np.sqrt(2)], rtol=1e-6)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("position", ["relative", "none", "sine", "coordconv"])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_parameter_count_is_the_closed_form(position, use_bias, kernel_size):
    f_in, f_out, dk, dv, n, h, w = 5, 14, 6, 4, 2, 5, 7
    module = layer(f_in, f_out, kernel_size, position=position, use_bias=use_bias)
    # What attention adds to k*k*Fin*Fout: the exact form of the paper's equation 5.
    expected = kernel_size**2 * f_in * f_out
    expected += f_in * (2 * dk + dv) + dv**2 - kernel_size**2 * f_in * dv
    expected += (2 * (h + w) - 2) * dk // n if position == "relative" else 0
    expected += 3 * (2 * dk + dv) if position == "coordconv" else 0
    expected += (f_out - dv) + (2 * dk + dv) + dv if use_bias else 0
    assert sum(x.size for x in jax.tree.leaves(params(module))) == expected


def test_names_are_checkpoint_keys():
    flat = {".".join(path) for path, _ in nnx.to_flat_state(nnx.state(layer(use_bias=True), nnx.Param))}
    assert flat == {
        *(f"{part}.{leaf}" for part in ("conv", "qkv", "out") for leaf in ("kernel", "bias")),
        "rel_height",
        "rel_width",
    }


@pytest.mark.few
@pytest.mark.parametrize("position", ["relative", "none"])
def test_translation_equivariance_away_from_borders(position):
    """If a pattern on an empty map is shifted, relative attention shifts its output too, as the convolution does."""
    rng = np.random.default_rng(1)
    module = layer(spatial_shape=(9, 11), position=position)
    pattern = rng.normal(size=(2, 3, 5)).astype(np.float32)
    images = np.zeros((2, 9, 11, 5), np.float32)
    images[0, 2:4, 2:5] = pattern
    images[1, 4:6, 5:8] = pattern
    here, there = module(jnp.asarray(images))
    # Empty locations have position terms too, so the softmax depends on the distance to the border; among the locations
    # of the pattern the normalised weights must be equal in both images.
    weights = module.attention_weights(jnp.asarray(images))
    inside_here = weights[0, :, 2:4, 2:5, 2:4, 2:5]
    inside_there = weights[1, :, 4:6, 5:8, 4:6, 5:8]
    normalised = [w / w.sum((-2, -1), keepdims=True) for w in (inside_here, inside_there)]
    np.testing.assert_allclose(normalised[0], normalised[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(here[1:5, 1:6, :10], there[3:7, 4:9, :10], rtol=1e-4, atol=1e-5)


def test_permutation_equivariance_without_position(rng):
    module = layer(value_depth=14, position="none", spatial_shape=None)
    x = np.asarray(random_input(rng, 2, 5, 7, 5)).reshape(2, 35, 5)
    order = rng.permutation(35)
    output = np.asarray(module(jnp.asarray(x.reshape(2, 5, 7, 5)))).reshape(2, 35, 14)
    permuted = np.asarray(module(jnp.asarray(x[:, order].reshape(2, 5, 7, 5)))).reshape(2, 35, 14)
    np.testing.assert_allclose(permuted, output[:, order], rtol=1e-4, atol=1e-5)
    relative = layer(value_depth=14)
    moved = np.asarray(relative(jnp.asarray(x[:, order].reshape(2, 5, 7, 5)))).reshape(2, 35, 14)
    still = np.asarray(relative(jnp.asarray(x.reshape(2, 5, 7, 5)))).reshape(2, 35, 14)
    assert np.abs(moved - still[:, order]).max() > 1e-2  # with positions the result differs


def test_smaller_maps_use_the_middle_of_the_tables_exactly(rng):
    large = layer(spatial_shape=(5, 7))
    x = random_input(rng, 2, 3, 4, 5)
    small = layer(spatial_shape=(3, 4))
    cut = {"rel_height": large.rel_height[2:7], "rel_width": large.rel_width[3:10]}
    nnx.update(small, {**nnx.to_pure_dict(nnx.state(large, nnx.Param)), **cut})
    np.testing.assert_array_equal(large(x), small(x))


@pytest.mark.parametrize("table_resize", ["linear", "clamp"])
def test_larger_maps_resize_the_tables(rng, table_resize):
    module = layer(spatial_shape=(3, 4), table_resize=table_resize)
    x = random_input(rng, 1, 5, 6, 5)
    tables = [np.asarray(t[...], np.float64) for t in (module.rel_height, module.rel_width)]
    wanted = []
    for table, made_for, length in zip(tables, (3, 4), (5, 6), strict=True):
        offsets = np.arange(-(length - 1), length) * ((made_for - 1) / (length - 1) if table_resize == "linear" else 1)
        at = np.clip(offsets + made_for - 1, 0, 2 * made_for - 2)
        wanted.append(np.stack([np.interp(at, np.arange(len(table)), column) for column in table.T], -1))
    same = layer(spatial_shape=(5, 6))
    resized = {name: jnp.asarray(t, jnp.float32) for name, t in zip(("rel_height", "rel_width"), wanted, strict=True)}
    nnx.update(same, {**nnx.to_pure_dict(nnx.state(module, nnx.Param)), **resized})
    np.testing.assert_allclose(jax.jit(module)(x), jax.jit(same)(x), rtol=1e-5, atol=1e-5)


def test_table_resize_error(rng):
    module = layer(spatial_shape=(3, 4), table_resize="error")
    with pytest.raises(ValueError, match="serves maps up to 3 long, got 5"):
        module(random_input(rng, 1, 5, 4, 5))


def test_attention_weights_sum_to_one_and_few_queries_equal_all(rng):
    module = layer(strides=2, spatial_shape=(4, 3))
    x = random_input(rng, 2, 8, 5, 5)
    weights = jax.jit(module.attention_weights)(x)
    assert weights.shape == (2, 2, 4, 3, 4, 3) and module.attended_shape(8, 5) == (4, 3)
    np.testing.assert_allclose(weights.sum((-2, -1)), np.ones((2, 2, 4, 3)), rtol=1e-5)
    queries = np.array([(0, 2), (3, 1), (2, 2)])
    few = jax.jit(lambda x: module.attention_weights(x, queries))(x)
    np.testing.assert_allclose(few, np.asarray(weights)[:, :, queries[:, 0], queries[:, 1]], rtol=1e-5, atol=1e-7)


def test_float64_layer(rng):
    with jax.enable_x64(True):
        module = layer(dtype=jnp.float64, param_dtype=jnp.float64)
        x = jnp.asarray(rng.normal(size=(1, 5, 7, 5)))
        output = module(x)
        assert output.dtype == jnp.float64
        np.testing.assert_allclose(output, expected_output(module, x), rtol=1e-11, atol=1e-11)


def test_bfloat16_layer_keeps_float32_parameters(rng):
    module = layer(dtype=jnp.bfloat16)
    x = random_input(rng, 2, 5, 7, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(params(module))} == {np.dtype("float32")}
    output = jax.jit(module)(x)
    assert output.dtype == jnp.bfloat16
    # 45 products for each output of the convolution, with factors rounded by 2**-9: a few hundredths of the largest.
    np.testing.assert_allclose(np.asarray(output, np.float32), layer()(x), atol=0.06)


@pytest.mark.few
@pytest.mark.parametrize("position", ["relative", "sine", "coordconv"])
def test_every_parameter_gets_a_finite_gradient(rng, position):
    module = layer(position=position, use_bias=True, attention_downsample=2, spatial_shape=(3, 4))
    graph, state = nnx.split(module)
    x = random_input(rng, 2, 5, 7, 5)
    target = random_input(rng, 2, 5, 7, 14)
    gradients = jax.jit(jax.grad(lambda s: jnp.sum((nnx.merge(graph, s, copy=True)(x) - target) ** 2)))(state)
    for path, gradient in nnx.to_flat_state(gradients):
        gradient = np.asarray(gradient[...])
        assert np.isfinite(gradient).all(), path
        if path == ("qkv", "bias"):
            # A constant added to every key shifts all logits of a query alike: softmax does not depend on a key bias.
            q, k, v = np.split(gradient, [6, 12])
            assert np.abs(q).min() > 1e-6 and np.abs(v).min() > 1e-6
            np.testing.assert_allclose(k, 0, atol=1e-4 * np.abs(v).max())
        else:
            assert np.abs(gradient).max() > 1e-6, path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel_size": 2}, "kernel_size must be one odd number, got 2"),
        ({"strides": 0}, "strides must be a whole number of at least 1, got 0"),
        ({"attention_downsample": 1.5}, "attention_downsample must be a whole number"),
        ({"key_depth": 7}, "key_depth=7 must divide by num_heads=2"),
        ({"value_depth": 3}, "value_depth=3 must divide by num_heads=2"),
        ({"value_depth": 16}, r"value_depth must lie in \[0, out_features=14\], got 16"),
        ({"key_depth": 0}, "key_depth must be at least num_heads=2, got 0"),
        ({"position": "rotary"}, "position must be one of .* got 'rotary'"),
        ({"table_resize": "cubic"}, "table_resize must be one of .* got 'cubic'"),
        ({"spatial_shape": None}, r"spatial_shape must be \(h, w\) of the attended map"),
        ({"spatial_shape": (0, 3)}, r"spatial_shape must be \(h, w\), both at least 1"),
        ({"spatial_shape": 7}, r"spatial_shape must be \(h, w\), both at least 1, got 7"),
        ({"spatial_shape": (5.0, 3)}, r"spatial_shape must be \(h, w\), both at least 1, got \(5.0, 3\)"),
        ({"spatial_shape": ("5", 3)}, r"spatial_shape must be \(h, w\), both at least 1, got"),
        ({"upsilon": 2.0, "value_depth": None}, "upsilon"),
        ({"kappa": float("inf"), "key_depth": None}, "kappa, .*, must be finite"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_settings_that_no_layer_can_have(changes, words):
    with pytest.raises(ValueError, match=words):
        layer(**changes)


def dilated(in_features, out_features, kernel_size, strides, **options):
    """Return a dilated convolution, which cannot leave room for other channels."""
    padding = ((kernel_size - 1, kernel_size - 1),) * 2
    shape = dict(kernel_size=(kernel_size,) * 2, strides=strides, padding=padding, kernel_dilation=2)
    return nnx.Conv(in_features, out_features, **shape, **options)


@pytest.mark.few(2)
@pytest.mark.parametrize("options", [{}, {"use_bias": True, "strides": 2}, {"convolution_layer": dilated}])
def test_a_tpu_adds_what_others_concatenate(rng, options):
    module = layer(implementation="folded", **options)
    if options.get("use_bias"):
        module.conv.bias[...] = random_input(rng, *module.conv.bias.shape)
    x = random_input(rng, 2, 5, 7, 5)
    with traced_for("tpu"):
        output = jax.jit(lambda x: module(x))(x)
    assert output.shape[-1] == 14
    np.testing.assert_allclose(output, module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_of_numpy_serve(rng):
    built = layer(kernel_size=np.int64(3), strides=np.int32(2), attention_downsample=np.int64(1))
    x = random_input(rng, 2, 5, 7, 5)
    np.testing.assert_array_equal(built(x), layer(strides=2)(x))


def test_inputs_that_do_not_fit(rng):
    with pytest.raises(ValueError, match=r"x must have shape \[b, h, w, in_features=5\], got \(2, 5, 7, 4\)"):
        layer()(random_input(rng, 2, 5, 7, 4))
    with pytest.raises(ValueError, match="no attention"):
        layer(value_depth=0).attention_weights(random_input(rng, 2, 5, 7, 5))


@pytest.mark.parametrize("options", [{"strides": 2}, {"attention_downsample": 2}, {"position": "sine"}])
def test_a_norm_where_attention_does_not_see_the_input(options):
    layer = AAConv2D(
        3, 8, 3, num_heads=2, key_depth=4, value_depth=4, spatial_shape=(3, 2), **options, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="norm needs attention to the layer's input"):
        layer(jnp.zeros((1, 6, 4, 3)), norm=(jnp.ones(3), jnp.zeros(3)))
