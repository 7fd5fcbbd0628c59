"""Tests of the AW-convolution against an independent NumPy forward pass, and of properties of its construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AWConv2D


def layer(inputs=6, outputs=8, kernel_size=3, **changes):
    """Return a layer whose gate has batch statistics as after training."""
    module = AWConv2D(inputs, outputs, kernel_size, **{"reduction": 2, "rngs": nnx.Rngs(5), **changes})
    drawn = np.random.default_rng(3)
    shape = module.bn.mean.shape
    module.bn.mean[...] = jnp.asarray(drawn.normal(size=shape), jnp.float32)
    module.bn.var[...] = jnp.asarray(drawn.uniform(0.5, 2, shape), jnp.float32)
    module.excite.bias[...] = jnp.asarray(drawn.normal(size=module.excite.bias.shape), jnp.float32)
    return module


def adaptive(x, size):
    """Return PyTorch's AdaptiveAvgPool2d of a map by its definition."""
    b, h, w, c = x.shape
    out = np.zeros((b, size, size, c))
    for i, j in np.ndindex(size, size):
        rows = slice(i * h // size, -(-(i + 1) * h // size))
        out[:, i, j] = x[:, rows, j * w // size : -(-(j + 1) * w // size)].mean((1, 2))
    return out


def expected_attention(module, x):
    """Return the attention A by the formula of the docstring, [b, kh, kw, cg or 1, out], in float64."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(module)))
    bn, excite = params["bn"], params["excite"]
    y = adaptive(x, module.kernel_size) @ params["squeeze"]["kernel"]
    y = np.maximum((y - bn["mean"]) / np.sqrt(bn["var"] + 1e-5) * bn["scale"] + bn["bias"], 0)
    if (
        excite["kernel"].ndim == 4
    ):  # grouped: output i of the pointwise convolution sees hidden channel i // (cg o / hidden)
        kernel = excite["kernel"][0, 0, 0]
        logits = np.repeat(y, kernel.size // y.shape[-1], -1) * kernel + excite["bias"]
        logits = np.swapaxes(logits.reshape(*y.shape[:3], module.out_features, -1), -1, -2)
    else:
        logits = (y @ excite["kernel"] + excite["bias"])[..., None, :]
    if "excite_inputs" in params:
        logits = logits + (y @ params["excite_inputs"]["kernel"] + params["excite_inputs"]["bias"])[..., None]
    return 1 / (1 + np.exp(-logits))


def convolved(x, kernels, module):
    """Return the convolution of each sample with its own kernel."""
    k, s, d = module.kernel_size, module.strides, module.dilation
    pad = d * (k - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    b, h, w, c = x.shape
    cg, outputs = kernels.shape[3:]
    y = np.zeros((b, -(-h // s), -(-w // s), outputs))
    for n, p, q in np.ndindex(y.shape[:3]):
        seen = padded[n, p * s : p * s + d * (k - 1) + 1 : d, q * s : q * s + d * (k - 1) + 1 : d]
        for group in range(c // cg):
            o = slice(group * outputs * cg // c, (group + 1) * outputs * cg // c)
            y[n, p, q, o] = np.tensordot(seen[..., group * cg : (group + 1) * cg], kernels[n][..., o], 3)
    return y


SETTINGS = [
    dict(),
    dict(variant="full", strides=2),
    dict(variant="outer", dilation=2, residual=False),
    dict(groups=2, strides=2, kernel_size=5),
    dict(groups=2, variant="outer", use_bias=True),
    dict(groups=6, outputs=6, gate_scale=0.7),
    dict(kernel_size=1, variant="full"),
]


@pytest.mark.few
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()) or "default")
def test_the_layer_is_its_formula(rng, settings):
    module = layer(**settings)
    if module.bias is not None:
        module.bias[...] = jnp.arange(8.0)
    x = rng.normal(size=(2, 7, 10, 6))
    attention = expected_attention(module, x)
    np.testing.assert_allclose(jax.jit(module.attention)(jnp.asarray(x, jnp.float32)), attention, atol=1e-5)
    kernel = np.asarray(module.kernel, np.float64)
    scaled = attention * (1 if module.gate_scale is None else float(module.gate_scale[...]))
    kernels = kernel * (scaled + (1 if module.residual else 0))
    y = convolved(x, np.broadcast_to(kernels, (2, *kernel.shape)), module)
    y += 0 if module.bias is None else np.arange(8.0)
    np.testing.assert_allclose(jax.jit(module)(jnp.asarray(x, jnp.float32)), y, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("variant", ["expand", "full", "outer"])
def test_every_parameter_learns(rng, variant):
    module = layer(variant=variant, gate_scale=0.5, use_bias=True)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    x = jnp.asarray(rng.normal(size=(4, 5, 8, 6)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(4, 5, 8, 8)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        return (nnx.merge(graph, params, rest, copy=True)(x, train=True) * weights).sum()

    for path, leaf in nnx.to_flat_state(gradient(params)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path


def test_counts_of_the_variants():
    """Weights are C1²/r + C1 C2/r (expand), C1²/r + C1 C2 (full), C1²/r more (outer), plus biases and batch norm."""
    for variant, weights, biases in (
        ("expand", 64 * 4 + 4 * 96, 96),
        ("full", 64 * 4 + 64 * 96, 64 * 96),
        ("outer", 64 * 4 + 4 * 96 + 4 * 64, 96 + 64),
    ):
        module = nnx.eval_shape(lambda v=variant: AWConv2D(64, 96, 3, variant=v, rngs=nnx.Rngs(0)))
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
        assert count == 9 * 64 * 96 + weights + biases + 2 * 4, variant
    few = nnx.eval_shape(lambda: AWConv2D(3, 5, 3, rngs=nnx.Rngs(0)))
    assert few.squeeze.kernel.shape == (3, 1)  # at least one hidden channel


@pytest.mark.few
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_gate_of_scale_zero_is_the_plain_convolution(rng, dtype):
    """The kernels equal the plain kernel bit for bit; sums may have another order, which changes the rounding."""
    module = layer(gate_scale=0.0, dtype=dtype)
    plain = nnx.Conv(6, 8, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, dtype=dtype, rngs=nnx.Rngs(0))
    plain.kernel[...] = module.kernel[...]
    x = jnp.asarray(rng.normal(size=(3, 5, 7, 6)), dtype)
    ours, theirs = (np.asarray(f(x), np.float32) for f in (module, plain))
    np.testing.assert_allclose(ours, theirs, rtol=float(jnp.finfo(dtype).eps), atol=4 * float(jnp.finfo(dtype).eps))


def test_a_gate_of_scale_zero_can_leave_zero(rng):
    """At zero the scale has a gradient, and the layers of the gate have none yet."""
    graph, params, rest = nnx.split(layer(gate_scale=0.0), nnx.Param, ...)
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 6)), jnp.float32)
    found = jax.jit(jax.grad(lambda p: (nnx.merge(graph, p, rest, copy=True)(x) ** 2).sum()))(params)
    assert float(found["gate_scale"][...]) != 0 and not found["squeeze"]["kernel"][...].any()


def test_training_updates_the_gates_statistics_and_evaluation_knows_no_neighbours(rng):
    module = layer()
    x = jnp.asarray(rng.normal(size=(3, 5, 7, 6)), jnp.float32)
    alone = jax.jit(module)(x[:1])
    np.testing.assert_allclose(jax.jit(module)(x)[:1], alone, rtol=1e-5, atol=1e-5)
    before = np.asarray(module.bn.mean)
    module(x, train=True)
    assert np.abs(np.asarray(module.bn.mean) - before).max() > 0


def test_pooling_by_strides(rng):
    """7 rows are pooled to 3 by pooling windows of 7 - 2·2 = 3 rows at 0, 2, 4."""
    from aa_flax.layers.aw_conv import pool_to

    x = rng.normal(size=(1, 7, 9, 2)).astype(np.float32)
    pooled = pool_to(jnp.asarray(x), 3, "stride")
    np.testing.assert_allclose(pooled[0, 1, 2], x[0, 2:5, 6:9].mean((0, 1)), rtol=1e-5)
    assert pool_to(jnp.asarray(x[:, :2]), 5, "stride").shape == (1, 5, 5, 2)  # fewer rows than windows
    np.testing.assert_allclose(pool_to(jnp.asarray(x), 3, "adaptive"), adaptive(x, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kernel_size=2), "kernel_size must be odd, got 2"),
        (dict(groups=4), "groups must divide in_features=6"),
        (dict(variant="dense"), "variant must be one of"),
        (dict(pool="max"), "pool must be one of"),
        (dict(reduction=0), "reduction must be a whole number of at least 1, got 0"),
        (dict(variant="full", outputs=5, inputs=7, reduction=1, groups=7), None),
        (dict(variant="full", inputs=9, outputs=5, reduction=2), "'full' needs"),
        (dict(gate_scale=0, residual=False), "gate_scale=0 needs residual=True"),
        (dict(gate_scale="0"), "gate_scale must be a number or None"),
        (dict(implementation="flod"), "implementation must be 'auto', one or three of"),
        (dict(implementation=("fold", "tap")), "implementation must be 'auto', one or three of"),
    ],
)
def test_settings_that_no_layer_can_have(changes, message):
    if message is None:
        changes = {**changes, "outputs": 7}
        assert layer(**changes).excite.kernel.shape == (7, 7)  # depthwise: "full" is "expand"
        return
    with pytest.raises(ValueError, match=message):
        layer(**changes)


@pytest.mark.usefixtures("unchecked_shapes")
def test_inputs_that_do_not_fit(rng):
    with pytest.raises(ValueError, match=r"x must have shape \[b, h, w, in_features=6\]"):
        layer()(jnp.zeros((2, 5, 7, 5)))
