import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import convolution
from aa_flax.ops.platform import traced_for

_NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.few(4)
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        *(((2, 2), (3, 3), None), ((1, 7), (3, 3), None), ((5, 1), (5, 3), None), ((1, 1), (7, 7), None)),
        *(((5, 4), (1, 1), padding) for padding in (None, [(1, 0), (2, 3)], "SAME", "VALID")),
    ],
)
def test_maps_below_the_kernel_and_kernels_of_one_place(rng, size, kernel, padding, strides):
    """Value and gradients equal those of XLA's convolution in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        w = jnp.asarray(rng.normal(size=(*kernel, 3, 5)))
        padding = padding or [((k - 1) // 2,) * 2 for k in kernel]

        def ours(x, w):
            return convolution(x, w, strides, padding, dimension_numbers=_NUMBERS)

        def theirs(x, w):
            return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=_NUMBERS)

        @functools.partial(jax.jit, static_argnums=0)
        def value_and_gradients(convolve, x, w, cotangent):
            y, back = jax.vjp(convolve, x, w)
            return y, *back(cotangent)

        assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, w))
        cotangent = jnp.asarray(rng.normal(size=jax.eval_shape(theirs, x, w).shape))
        for got, want in zip(*(value_and_gradients(f, x, w, cotangent) for f in (ours, theirs)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.few(2)
@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 1), (0, 3)]])
@pytest.mark.parametrize(
    ("kernel", "strides"), [((3, 3), (1, 1)), ((5, 5), (2, 1)), ((3, 5), (2, 2)), ((1, 3), (1, 2))]
)
def test_channels_each_by_itself(rng, kernel, strides, padding):
    """On a CPU a depthwise convolution, of any map, is a sum of shifted maps; value and gradients as XLA's."""
    with jax.enable_x64(True):
        x, w = jnp.asarray(rng.normal(size=(2, 7, 5, 3))), jnp.asarray(rng.normal(size=(*kernel, 1, 3)))
        options = dict(dimension_numbers=_NUMBERS, feature_group_count=3)

        @functools.partial(jax.jit, static_argnums=0)
        def value_and_gradients(convolve, x, w):
            y, back = jax.vjp(lambda x, w: convolve(x, w, strides, padding, **options), x, w)
            return y, *back(jnp.cos(y))

        assert "conv_general_dilated" not in str(
            jax.make_jaxpr(functools.partial(value_and_gradients, convolution))(x, w)
        )
        both = (value_and_gradients(f, x, w) for f in (convolution, jax.lax.conv_general_dilated))
        for got, want in zip(*both, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_shifted_maps_are_added_up_in_float32(rng):
    """One rounding at the end, as of XLA's convolution; GPUs and TPUs get XLA's."""
    x, w = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((2, 6, 7, 4), (3, 3, 1, 4)))

    def call(x, w):
        return convolution(x, w, (1, 1), "SAME", dimension_numbers=_NUMBERS, feature_group_count=4)

    exact = call(x.astype(jnp.float32), w.astype(jnp.float32))
    got = call(x, w)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))
    with traced_for("gpu"):
        assert "conv_general_dilated" in str(jax.make_jaxpr(call)(x, w))


@pytest.mark.parametrize("change", [dict(size=(3, 3)), dict(groups=3), dict(dilation=(2, 2)), dict(padding="SAME")])
def test_everything_else_is_left_to_xla(rng, change):
    x = jnp.asarray(rng.normal(size=(2, *change.get("size", (2, 2)), 3)), jnp.float32)
    groups = change.get("groups", 1)
    w = jnp.asarray(rng.normal(size=(3, 3, 3 // groups, 6)), jnp.float32)
    padding = change.get("padding", [(2, 2), (2, 2)])

    def call(function):
        return function(
            x,
            w,
            (1, 1),
            padding,
            rhs_dilation=change.get("dilation"),
            dimension_numbers=_NUMBERS,
            feature_group_count=groups,
        )

    np.testing.assert_array_equal(call(convolution), call(jax.lax.conv_general_dilated))


def test_other_platforms_convolve_kernels_of_one_place():
    x, w = jnp.ones((2, 4, 4, 3)), jnp.ones((1, 1, 3, 6))
    with traced_for("tpu"):
        program = jax.make_jaxpr(lambda x, w: convolution(x, w, (1, 1), "VALID", dimension_numbers=_NUMBERS))(x, w)
    assert "conv_general_dilated" in str(program)
