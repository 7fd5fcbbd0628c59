"""Tests of the convolution of resized maps against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import resize_bilinear, resized_convolution
from aa_flax.ops.platform import traced_for

_NUMBERS = ("NHWC", "HWIO", "NHWC")


def by_definition(maps, kernel):
    joined = jnp.concatenate([resize_bilinear(x, *maps[0].shape[1:3]) for x in maps], -1)
    around = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(joined, kernel, (1, 1), around, dimension_numbers=_NUMBERS)


def drawn(rng, sizes, channels, kernel, dtype):
    maps = [jnp.asarray(rng.normal(size=(2, *size, c)), dtype) for size, c in zip(sizes, channels, strict=True)]
    return maps, jnp.asarray(rng.normal(size=(*kernel, sum(channels), 7)), dtype)


@pytest.mark.parametrize(
    ("sizes", "channels", "kernel"),
    [
        (((9, 14), (5, 7), (3, 4), (1, 2)), (3, 20, 21, 22), (3, 3)),
        (((8, 6), (4, 3), (8, 6), (16, 9)), (2, 30, 3, 4), (5, 3)),  # one of the same size, one that shrinks
    ],
)
def test_values_and_gradients_are_those_of_the_definition(rng, sizes, channels, kernel):
    with jax.enable_x64(True):
        maps, kernel = drawn(rng, sizes, channels, kernel, np.float64)
        cotangent = jnp.asarray(rng.normal(size=(2, *sizes[0], 7)))

        @jax.jit
        def both(maps, kernel):
            results = []
            for function in (resized_convolution, by_definition):
                y, back = jax.vjp(function, maps, kernel)
                results.append((y, back(cotangent)))
            return results

        read = [
            equation.invars[0].aval.shape[-1]
            for inner in jax.make_jaxpr(resized_convolution)(maps, kernel).jaxpr.eqns
            if inner.params.get("name") == "convolution_of_resized"
            for equation in inner.params["jaxpr"].jaxpr.eqns
            if equation.primitive.name == "conv_general_dilated"
        ]
        assert len(read) == 1 and read[0] < sum(channels)  # some maps are convolved at their own size
        for got, want in zip(*map(jax.tree.leaves, both(maps, kernel)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)  # interpolation of JAX is in float32


@pytest.mark.parametrize(("platform", "dtype"), [("tpu", jnp.float32), ("gpu", jnp.float32), ("cpu", jnp.bfloat16)])
def test_elsewhere_it_is_computed_as_defined(rng, platform, dtype):
    maps, kernel = drawn(rng, ((8, 8), (2, 2)), (3, 40), (3, 3), dtype)

    def interpolates(maps, kernel):
        program = jax.make_jaxpr(lambda *arrays: resized_convolution(*arrays))(maps, kernel)  # traced each time
        return "f32[2,8,8,40]" in str(program).replace("bf16", "f32")

    with traced_for(platform):
        assert interpolates(maps, kernel)
    assert interpolates(maps, kernel) == (dtype == jnp.bfloat16)


def test_unusable_kernels(rng):
    maps, kernel = drawn(rng, ((4, 4), (2, 2)), (2, 3), (3, 3), np.float32)
    for wrong in (kernel[:2], kernel[:, :2], kernel[:, :, :4]):
        with pytest.raises(ValueError, match="kernel must have odd sides and 5 channels, got"):
            resized_convolution(maps, wrong)
