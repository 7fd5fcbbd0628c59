"""Tests of the interpreted TPU kernel: images one by one, side by side and on lanes; normalised and upsampled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax import ops
from aa_flax.layers import AAConv2D
from aa_flax.layers.norm import batch_norm
from aa_flax.models.activated import convolve_activated
from aa_flax.ops import attention_branch
from aa_flax.ops.pallas_tpu import branch
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.platform import traced_for
from aa_flax.ops.reference import reference

# Errors as in test_pallas_tpu.py, and sums over a whole batch of terms that are rounded once each.
TOLERANCE = {"float32": 5e-6, "bfloat16": 3.5e-2}


def arguments(rng, b, h, w, n, dk, dv, c, out, dtype):
    """Return x, both projections with biases, both tables, and factor and summand of a normalisation."""
    depths = n * (2 * dk + dv)
    sizes = [(b, h, w, c), (c, depths), (depths,), (n * dv, out), (out,), (2 * h - 1, dk), (2 * w - 1, dk)]
    scales = [1, c**-0.5, 0.3, 1, 1, 1, 1]
    arrays = [jnp.asarray(rng.normal(size=size) * scale, dtype) for size, scale in zip(sizes, scales, strict=True)]
    return [*arrays, *(jnp.asarray(rng.normal(size=c), jnp.float32) for _ in range(2))]


def definition(
    n, upsampled, normalized, added_to, x, qkv, qkv_bias, out, out_bias, rel_height, rel_width, factor, summand
):
    b, h, w, _ = x.shape
    if normalized:
        x = jax.nn.relu(x * factor[None, None, None] + summand[None, None, None])
    depths, dv = qkv.shape[1], out.shape[0]
    cuts = [(depths - dv) // 2, depths - dv]
    query, key, value = (
        part.reshape(b, h, w, n, -1) for part in jnp.split(x @ qkv + qkv_bias[None, None, None], cuts, -1)
    )
    heads = reference(query, key, value, rel_height, rel_width, scale=query.shape[-1] ** -0.5)
    y = heads.reshape(b, h, w, dv) @ out + out_bias[None, None, None]
    if upsampled is not None:
        y = jax.image.resize(y, (b, *upsampled, y.shape[-1]), "bilinear", antialias=False)
    return y if added_to is None else added_to.at[..., -y.shape[-1] :].add(y)


def kernel(n, upsampled, normalized, added_to, *arrays):
    *arrays, factor, summand = arrays
    norm = (factor, summand) if normalized else None
    options = dict(num_heads=n, implementation="pallas_tpu_interpret", norm=norm, upsampled=upsampled)
    return attention_branch(*arrays, **options, added_to=added_to)


@pytest.mark.few(0, thorough=5)
@pytest.mark.parametrize(
    ("size", "dtype", "upsampled", "normalized", "channels"),
    [
        # b, h, w, n, dk, dv, c, out; channels of the map that the result is added to
        ((2, 5, 7, 2, 20, 3, 11, 6), "float32", (9, 14), True, 0),
        ((1, 13, 11, 1, 9, 2, 10, 2), "bfloat16", None, True, 10),
        ((8, 5, 7, 2, 20, 3, 11, 6), "bfloat16", (10, 13), True, 256),
        ((16, 3, 5, 1, 4, 2, 131, 5), "float32", (5, 7), False, 128),
        ((8, 3, 5, 1, 4, 2, 12, 5), "float32", None, False, 130),  # not a whole number of tiles
        ((1, 33, 32, 2, 4, 2, 9, 3), "float32", (35, 37), True, 0),  # 1,056 locations: heads one by one
        ((128, 3, 5, 1, 8, 4, 24, 8), "float32", None, True, 16),
        ((256, 2, 3, 2, 8, 4, 16, 24), "bfloat16", (3, 4), True, 0),  # two blocks; 24 are not whole tiles of words
        ((128, 11, 13, 1, 4, 8, 48, 8), "bfloat16", None, False, 0),  # 143 locations: a whole tile and a part
    ],
    ids=str,
)
def test_value_and_all_gradients_however_the_maps_lie(rng, size, dtype, upsampled, normalized, channels):
    b, h, w, n, *_ = size
    out_shape = (b, *(upsampled or (h, w)), channels or size[-1])
    added_to = jnp.asarray(rng.normal(size=out_shape), dtype) if channels else None
    arrays = arguments(rng, *size, dtype)
    cotangent = jnp.asarray(rng.normal(size=out_shape), dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, cotangent, *arrays):
        output, pullback = jax.vjp(functools.partial(function, n, upsampled, normalized), *arrays)
        return [output, *pullback(cotangent)]

    arrays = (cotangent, added_to, *arrays)
    got = jax.tree.leaves(run(kernel, *arrays))
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), arrays)
        wanted = jax.tree.leaves(run(definition, *exact))
    for ours, exact in zip(got, wanted, strict=True):
        exact = np.asarray(exact)
        error = np.abs(np.asarray(ours, np.float64) - exact).max()
        assert error <= TOLERANCE[dtype] * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize(
    ("batch", "channels", "out", "images"),
    [
        *((3, 16, 8, 1), (8, 16, 8, 8), (256, 16, 8, 128), (128, 24, 8, 8), (128, 16, 12, 8)),
        *((128, 128, 8, 8), (128, 320, 8, 128), (128, 512, 8, 8), (128, 640, 8, 128)),
    ],
)
def test_as_many_images_in_a_block_as_batch_and_channels_allow(batch, channels, out, images):
    shape = Shape(5, 7, 2, 8, out // 2, channels, out, 1.0, True, jnp.dtype("bfloat16"))
    assert branch._with_images(shape, batch).images == images


@pytest.mark.parametrize(
    ("side", "channels", "wanted"), [(14, 256, [8, 8, 8]), (14, 160, [128, 128, 8]), (32, 160, [128, 8, 1])]
)
def test_a_chip_with_less_memory_takes_fewer_images(monkeypatch, side, channels, wanted):
    shape = Shape(side, side, 8, 20, 3, channels, 24, 1.0, True, jnp.dtype("bfloat16"))
    found = []
    for kind in ("TPU v5 lite", "TPU v5p", "TPU v4"):
        monkeypatch.setattr(branch, "target_device_kind", lambda kind=kind: kind)
        found.append(branch._with_images(shape, 128).images)
    assert found == wanted


@pytest.mark.parametrize(("kind", "largest"), [("TPU v5 lite", 112), ("TPU v4", 40)])
def test_the_largest_map_that_a_chip_holds(kind, largest):
    fits = [Shape(h, h, 8, 20, 3, 256, 24, 1.0, True, jnp.dtype("bfloat16")).fits(kind) for h in (largest, largest + 4)]
    assert fits == [True, False]


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 6, 5, 8), (1, 6, 10, 8)])
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_map_that_the_result_does_not_fit(rng, shape):
    arrays = arguments(rng, 2, 3, 5, 2, 4, 2, 6, 8, "float32")
    with pytest.raises(ValueError, match=r"added_to must have shape \(2, 6, 10\) and at least 8 channels"):
        kernel(2, (6, 10), False, jnp.zeros(shape), *arrays)


@pytest.mark.parametrize("lengths", [(7, 14), (5, 13), (6, 6), (9, 4)])
def test_bilinear_weights_are_those_of_resize_bilinear(rng, lengths):
    x = jnp.asarray(rng.normal(size=(1, lengths[0], 3, 2)), jnp.float32)
    wanted = ops.resize_bilinear(x, lengths[1], 3)
    got = np.einsum("oi,biwc->bowc", ops.resampling.bilinear_weights(*lengths), x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{}, {"position": "none"}, {"attention_downsample": 2, "spatial_shape": (3, 4)}])
def test_norm_activation_and_augmented_convolution_are_the_same_with_both_inside_the_kernel(rng, options):
    """`convolve_activated` gives the same on a TPU, where the kernel normalises and upsamples, as elsewhere."""
    settings = dict(num_heads=2, key_depth=10, value_depth=6, spatial_shape=(5, 7), use_bias=True)
    x = jnp.asarray(rng.normal(2, 3, size=(4, 5, 7, 11)), jnp.float32)

    @nnx.jit(static_argnums=2)
    def run(model, x, implementation):
        norm, conv = model
        conv.implementation = implementation

        def loss(model, x):
            norm, conv = model
            y = convolve_activated(norm, conv, x, train=True, recompute=True)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(model, x)
        return y, gradients, norm.mean[...], norm.var[...]

    results = []
    for platform, implementation in (("tpu", "pallas_tpu_interpret"), ("cpu", "reference")):
        norm, conv = batch_norm(11, rngs=nnx.Rngs(0)), AAConv2D(11, 16, 3, **{**settings, **options}, rngs=nnx.Rngs(1))
        norm.bias[...], norm.scale[...] = jnp.linspace(-1, 1, 11), jnp.linspace(0.5, 2, 11)
        with traced_for(platform):
            results.append(jax.tree.leaves(run((norm, conv), x, implementation)))
    assert len(results[0]) == len(results[1])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=1e-4)
