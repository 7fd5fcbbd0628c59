"""Tests of the attention-augmented convolution over signals and volumes, and that over maps nothing has changed."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv, AAConv2D

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))
import space_oracle as oracle


def layer(spatial_shape, in_features=5, out_features=14, kernel_size=3, kind=AAConv, **changes):
    options = dict(num_heads=2, key_depth=6, value_depth=4, spatial_shape=spatial_shape)
    return kind(in_features, out_features, kernel_size, **{**options, "rngs": nnx.Rngs(3), **changes})


def params(module):
    return {".".join(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def random_input(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def convolved(x, kernel, stride):
    """Return a convolution by its definition, with padding (k-1)//2 on every axis."""
    size, axes = kernel.shape[0], kernel.ndim - 2
    pad = (size - 1) // 2
    padded = np.pad(x, ((0, 0), *((pad, pad),) * axes, (0, 0)))
    out = np.zeros((len(x), *((side - 1) // stride + 1 for side in x.shape[1:-1]), kernel.shape[-1]))
    for place in np.ndindex(out.shape[1:-1]):
        window = tuple(slice(at * stride, at * stride + size) for at in place)
        out[(slice(None), *place)] = np.tensordot(padded[(slice(None), *window)], kernel, axes + 1)
    return out


def pooled(x, stride):
    """Return the means over windows of 3 locations, those outside not counted."""
    out = np.zeros((len(x), *(-(-side // stride) for side in x.shape[1:-1]), x.shape[-1]))
    for place in np.ndindex(out.shape[1:-1]):
        window = tuple(slice(max(stride * at - 1, 0), stride * at + 2) for at in place)
        out[(slice(None), *place)] = x[(slice(None), *window)].mean(tuple(range(1, x.ndim - 1)))
    return out


def expected(module, x, strides=1):
    """Return concat(conv, attention) from the parameters alone."""
    p, x = {name: array.astype(np.float64) for name, array in params(module).items()}, np.asarray(x, np.float64)
    kernels = {name: p[f"{name}.kernel"] for name in ("conv", "qkv", "out")}
    pointwise = {name: kernel.reshape(kernel.shape[-2:]) for name, kernel in kernels.items() if name != "conv"}
    attended = pooled(x, strides) if strides > 1 else x
    parts = np.split(attended @ pointwise["qkv"], [6, 12], -1)
    query, key, value = (part.reshape(*part.shape[:-1], 2, -1) for part in parts)
    tables = [p[name] for name in module.table_names]
    heads, _ = oracle.attend(query, key, value, tables, 3**-0.5)
    merged = heads.reshape(*heads.shape[:-2], 4) @ pointwise["out"]
    return np.concatenate([convolved(x, kernels["conv"], strides), merged], -1)


@pytest.mark.few(1)
@pytest.mark.parametrize(("space", "strides"), [((2, 3, 5), 1), ((7,), 2), ((7,), 1), ((3, 5, 4), 2)], ids=str)
def test_equals_the_definition(rng, space, strides):
    module = layer(tuple(-(-side // strides) for side in space), strides=strides)
    x = random_input(rng, 2, *space, 5)
    np.testing.assert_allclose(jax.jit(module)(x), expected(module, x, strides), rtol=1e-4, atol=1e-4)


def test_over_a_map_it_is_the_layer_of_maps(rng):
    ours, known = layer((5, 7)), layer((5, 7), kind=AAConv2D)
    assert isinstance(known, AAConv) and params(ours).keys() == params(known).keys()
    x = random_input(rng, 2, 5, 7, 5)
    np.testing.assert_array_equal(ours(x), known(x))


@pytest.mark.parametrize(
    ("space", "names"),
    [
        ((7,), {"rel_length": 13}),
        ((3, 7), {"rel_height": 5, "rel_width": 13}),
        ((2, 3, 5), {"rel_depth": 3, "rel_height": 5, "rel_width": 9}),
    ],
    ids=str,
)
def test_names_are_checkpoint_keys(space, names):
    module = layer(space)
    kernels = {"conv.kernel": (3,) * len(space), "qkv.kernel": (1,) * len(space), "out.kernel": (1,) * len(space)}
    found = params(module)
    assert found.keys() == kernels.keys() | names.keys()
    assert {name: array.shape for name, array in found.items() if name in names} == {
        name: (rows, 3) for name, rows in names.items()
    }
    assert all(found[name].shape[:-2] == window for name, window in kernels.items())
    assert module.has_tables and not layer(space, position="none").has_tables


@pytest.mark.few(1)
@pytest.mark.parametrize(("space", "strides"), [((7,), 2), ((4, 3, 3), 2), ((7,), 1), ((3, 5), 1)], ids=str)
def test_padding_at_the_end_changes_nothing(rng, space, strides):
    """What is padded gives what it gives alone, whatever the padding holds, where strides divide and where not."""
    whole = tuple(side + 3 for side in space)
    module = layer(tuple(-(-side // strides) for side in whole), strides=strides)
    x = random_input(rng, 2, *space, 5)
    here = (slice(None), *map(slice, space))
    valid = jnp.zeros((2, *whole), bool).at[here].set(True)
    padded = random_input(rng, 2, *whole, 5).at[here].set(x)
    alone = module(x)
    found = module(padded, valid=valid)[(slice(None), *map(slice, alone.shape[1:-1]))]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(module(padded))[(slice(None), *map(slice, alone.shape[1:-1]))] - alone).max() > 1e-2


@pytest.mark.few(1)
@pytest.mark.parametrize("table_resize", ["linear", "clamp"])
def test_larger_volumes_resize_the_tables(rng, table_resize):
    module, same = layer((2, 3, 3), table_resize=table_resize), layer((2, 4, 5))
    given = params(module)
    for name, made_for, length in (("rel_height", 3, 4), ("rel_width", 3, 5)):
        offsets = np.arange(-(length - 1), length) * ((made_for - 1) / (length - 1) if table_resize == "linear" else 1)
        at = np.clip(offsets + made_for - 1, 0, 2 * made_for - 2)
        table = [np.interp(at, np.arange(2 * made_for - 1), column) for column in given[name].T]
        given[name] = np.stack(table, -1).astype(np.float32)
    nested = nnx.to_pure_dict(nnx.state(same, nnx.Param))
    nnx.update(same, {key: jnp.asarray(given[key]) if key in given else value for key, value in nested.items()})
    for name in ("conv", "qkv", "out"):
        getattr(same, name).kernel[...] = given[f"{name}.kernel"]
    x = random_input(rng, 1, 2, 4, 5, 5)
    np.testing.assert_allclose(module(x), same(x), rtol=1e-5, atol=1e-5)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("space", "position"), [((7,), "relative"), *itertools.product([(2, 3, 3)], ["relative", "sine", "coordconv"])]
)
def test_every_parameter_gets_a_finite_gradient(rng, space, position):
    module = layer(space, position=position)
    graph, state = nnx.split(module)
    x, target = random_input(rng, 2, *space, 5), random_input(rng, 2, *space, 14)
    gradients = jax.jit(jax.grad(lambda s: jnp.sum((nnx.merge(graph, s, copy=True)(x) - target) ** 2)))(state)
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 1e-6, path


def test_positions_of_signals_and_volumes(rng):
    x = random_input(rng, 2, 4, 3, 5, 5)
    seen = layer((4, 3, 5), position="coordconv").attention_input(x)
    np.testing.assert_array_equal(seen[..., :5], x)
    np.testing.assert_allclose(seen[1, 3, 0, 2, 5:], [0, -1, 1, np.sqrt(2)], rtol=1e-6)  # x, y, z and r
    signal = layer((7,), position="coordconv").attention_input(x[:, :, 0, 0])
    np.testing.assert_allclose(signal[0, 0, 5:], [-1, 1])
    added = layer((4, 3, 5), position="sine").attention_input(x) - x
    # Of five channels depth and height have two each, and width one.
    np.testing.assert_allclose(added[0, 3, 2, 1], [np.sin(3), np.cos(3), np.sin(2), np.cos(2), np.sin(1)], atol=1e-5)


def test_attention_weights_of_a_padded_signal(rng):
    module = layer((4,), strides=2)
    x, valid = random_input(rng, 2, 8, 5), jnp.arange(8)[None] < jnp.asarray([[8], [5]])
    weights = np.asarray(module.attention_weights(x, valid=valid))
    assert weights.shape == (2, 2, 4, 4) and module.attended_shape(8) == (4,)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not weights[1, ..., 3:].any() and weights[1, ..., :3].all()
    few = module.attention_weights(x, [(2,), (0,)], valid)
    np.testing.assert_allclose(few, weights[:, :, [2, 0]], rtol=1e-5, atol=1e-7)


@pytest.mark.thorough
@pytest.mark.parametrize("implementation", ["pallas_tpu_interpret", "pallas_gpu_interpret"])
def test_kernels_read_signals_with_their_projections(rng, implementation):
    x = random_input(rng, 2, 7, 5)
    module = layer((7,), implementation=implementation)
    np.testing.assert_allclose(module(x), expected(module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spatial_shape", [(), (2, 3, 4, 5), 7, None], ids=str)
@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_that_no_layer_can_have(spatial_shape):
    with pytest.raises(ValueError, match=r"spatial_shape must be \(l,\) or \(h, w\) or \(d, h, w\), each at least 1"):
        layer(spatial_shape)
    with pytest.raises(ValueError, match=r"spatial_shape must be \(d, h, w\), each at least 1, got \(2, 0, 3\)"):
        layer((2, 0, 3))


@pytest.mark.usefixtures("unchecked_shapes")
def test_inputs_that_do_not_fit(rng):
    with pytest.raises(ValueError, match=r"x must have shape \[b, l, in_features=5\], got \(2, 7, 7, 5\)"):
        layer((7,))(random_input(rng, 2, 7, 7, 5))
    with pytest.raises(ValueError, match=r"valid must have shape \(1, 7\) like the input, got \(1, 6\)"):
        layer((7,))(random_input(rng, 1, 7, 5), valid=jnp.ones((1, 6), bool))
    with pytest.raises(ValueError, match="valid needs attention_downsample=1, got 2"):
        layer((4,), attention_downsample=2)(random_input(rng, 1, 7, 5), valid=jnp.ones((1, 7), bool))
    with pytest.raises(ValueError, match="'pallas_gpu' serves one and two dimensions"):
        layer((2, 3, 5), implementation="pallas_gpu")(random_input(rng, 1, 2, 3, 5, 5))
