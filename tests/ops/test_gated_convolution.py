"""Tests of the gated convolution against its definition, of its forms, and of properties of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops.gated_choice import TABLE, Call, choose
from aa_flax.ops.gated_convolution import Forms, gated_convolution

# kernel, stride, dilation, groups, input channels, output channels, input channels of the gate, map
CASES = [
    (3, 1, 1, 1, 5, 4, 1, (6, 7)),
    (3, 2, 1, 1, 3, 5, 3, (7, 4)),
    (5, 1, 2, 3, 6, 9, 1, (5, 11)),
    (3, 3, 2, 2, 4, 6, 2, (8, 5)),
    (5, 2, 1, 6, 6, 6, 1, (7, 6)),  # depthwise
    (3, 1, 1, 3, 3, 6, 1, (2, 3)),  # depthwise with two outputs a channel, a map smaller than the kernel
    (1, 2, 1, 2, 4, 6, 2, (5, 3)),
    (3, 1, 1, 1, 40, 7, 1, (2, 3)),  # fewer locations than channels
]
IDS = ["-".join(map(str, case[:6])) for case in CASES]


def operands(rng, case, batch=3, dtype=np.float64):
    k, stride, dilation, groups, inputs, outputs, gates, (h, w) = case
    x = rng.normal(size=(batch, h, w, inputs))
    kernel = rng.normal(size=(k, k, inputs // groups, outputs))
    gate = rng.uniform(size=(batch, k, k, gates, outputs))
    pad = dilation * (k - 1) // 2
    settings = dict(strides=(stride,) * 2, padding=((pad, pad),) * 2, dilation=(dilation,) * 2, groups=groups)
    return [np.asarray(a, dtype) for a in (x, kernel, gate)], settings


def by_definition(x, kernel, gate, strides, padding, dilation, groups):
    """Return the output by loops: each output channel gates the input that it sees by its own map, and convolves it."""
    b, h, w, _ = x.shape
    k, _, cg, outputs = kernel.shape
    (low, high), step, spread = padding[0], strides[0], dilation[0]
    padded = np.pad(x, ((0, 0), (low, high), (low, high), (0, 0)))
    rows, columns = ((n + low + high - spread * (k - 1) - 1) // step + 1 for n in (h, w))
    y = np.zeros((b, rows, columns, outputs))
    for n, p, q, o in np.ndindex(y.shape):
        first = o // (outputs // groups) * cg
        seen = padded[
            n,
            p * step : p * step + spread * (k - 1) + 1 : spread,
            q * step : q * step + spread * (k - 1) + 1 : spread,
            first : first + cg,
        ]
        y[n, p, q, o] = np.sum(seen * gate[n, :, :, :, o] * kernel[:, :, :, o])
    return y


def value_and_gradients(implementation, arrays, settings):
    def run(*arrays):
        return gated_convolution(*arrays, **settings, implementation=implementation)

    @jax.jit
    def both(*arrays):
        y, pullback = jax.vjp(run, *arrays)
        weights = np.random.default_rng(1).normal(size=y.shape)
        return y, *pullback(jnp.asarray(weights, y.dtype))

    return both(*map(jnp.asarray, arrays))


@pytest.mark.few
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_form_is_the_definition(rng, case):
    """Gating the input for each output channel equals multiplying the kernel by the gate (Zhu et al., 2021)."""
    with jax.enable_x64(True):
        arrays, settings = operands(rng, case)
        loop = value_and_gradients("loop", arrays, settings)
        np.testing.assert_allclose(loop[0], by_definition(*arrays, **settings), rtol=1e-10, atol=1e-12)
        for form in ("fold", "tap"):
            for ours, expected in zip(value_and_gradients(form, arrays, settings), loop, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11, err_msg=form)


def test_forms_are_chosen_apart(rng):
    """The forms of the forward pass and of the two gradients are independent choices."""
    with jax.enable_x64(True):
        arrays, settings = operands(rng, (3, 1, 1, 1, 2, 3, 1, (3, 4)), batch=2)
        loop = value_and_gradients("loop", arrays, settings)
        for forms in (("fold", "fold", "tap"), ("tap", "fold", "fold"), ("fold", "tap", "fold")):
            for ours, expected in zip(value_and_gradients(Forms(*forms), arrays, settings), loop, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11, err_msg=str(forms))


@pytest.mark.parametrize("form", ["fold", "tap"])
def test_samples_are_independent(rng, form):
    """A sample's output does not depend on the other samples, and is permuted with the samples."""
    arrays, settings = operands(rng, CASES[0], dtype=np.float32)
    x, kernel, gate = map(jnp.asarray, arrays)

    @jax.jit
    def run(x, gate):
        return gated_convolution(x, kernel, gate, **settings, implementation=form)

    y, order = run(x, gate), np.array([2, 0, 1])
    np.testing.assert_allclose(run(x[order], gate[order]), y[order], rtol=1e-6, atol=1e-6)
    others = x.at[1:].multiply(-3)
    np.testing.assert_array_equal(run(others, gate)[0], y[0])


@pytest.mark.few(0)
@pytest.mark.parametrize("form", ["fold", "tap"])
def test_bfloat16(rng, form):
    """Products are summed in float32 and rounded once; the fold also rounds its kernels: errors are a few 2**-8."""
    for case in (CASES[0], CASES[4], CASES[7]):
        arrays, settings = operands(rng, case, dtype=np.float32)
        x, kernel, gate = arrays
        rounded = jnp.asarray(x, jnp.bfloat16)
        expected = value_and_gradients("loop", (np.asarray(rounded, np.float32), kernel, gate), settings)
        for ours, exact in zip(value_and_gradients(form, (rounded, kernel, gate), settings), expected, strict=True):
            scale = float(jnp.abs(exact).max())
            np.testing.assert_allclose(np.asarray(ours, np.float32), exact, atol=0.02 * scale)


def test_what_auto_takes():
    """Depthwise takes "tap"; on a TPU others take "fold", except for the gradient of the weights on small maps."""

    def forms(platform, side, inputs, groups=1):
        return choose(Call(platform, side, side, inputs, 64, groups, separable=True))

    assert forms("cpu", 14, 256) == forms("gpu", 14, 256) == ("tap",) * 3
    assert forms("tpu", 14, 1, groups=64) == ("tap",) * 3
    assert forms("tpu", 14, 256) == ("fold",) * 3 and forms("tpu", 7, 512) == ("fold", "fold", "tap")
    assert all(entry.because for entry in TABLE)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_does_not_fit(rng):
    arrays, settings = operands(rng, CASES[0], dtype=np.float32)
    x, kernel, gate = map(jnp.asarray, arrays)
    with pytest.raises(ValueError, match="gate must be"):
        gated_convolution(x, kernel, gate[:2], **settings)
    with pytest.raises(ValueError, match="x and kernel must be"):
        gated_convolution(x[0], kernel, gate, **settings)
    with pytest.raises(ValueError, match="must be at least 1, got \\(0, 1\\)"):
        gated_convolution(x, kernel, gate, **{**settings, "strides": (0, 1)})
    with pytest.raises(ValueError, match="nothing is left to compute"):
        gated_convolution(x[:, :2, :2], kernel, gate, **{**settings, "padding": ((0, 0), (0, 0))})
    with pytest.raises(ValueError, match="kernel must be"):
        gated_convolution(x[..., :4], kernel, gate, **settings)
    with pytest.raises(ValueError, match="implementation must be 'auto', one or three of"):
        gated_convolution(x, kernel, gate, **settings, implementation="winograd")
    with pytest.raises(ValueError, match="cannot be mixed"):
        gated_convolution(x, kernel, gate, **settings, implementation=Forms("fold", "loop", "tap"))
