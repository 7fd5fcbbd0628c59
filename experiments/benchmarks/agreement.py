"""Checks that the PyTorch versions equal our reference, in value and gradient, before they are timed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from aa_flax.layers import AAConv2D
from aa_flax.ops import relative_attention_2d

# For float32 sums of at most 35 keys or 63 products, in another order.
_RELATIVE, _ABSOLUTE = 2e-4, 2e-5


def check_attention(device: str) -> None:
    """Check every implementation of `pytorch_attention` on a 5×7 map of 2 images, 3 heads; AssertionError if one fails.

    FlexAttention has no gradient on a CPU, so only its value is checked there. Where its compiler fails it is neither
    checked nor timed.
    """
    from experiments.benchmarks import pytorch_attention

    rng = np.random.default_rng(2)
    b, h, w, n, dk, dv = 2, 5, 7, 3, 16, 16
    shapes = [(b, h, w, n, dk), (b, h, w, n, dk), (b, h, w, n, dv), (2 * h - 1, dk), (2 * w - 1, dk)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    cotangent = rng.normal(size=shapes[2]).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        output, pullback = jax.vjp(lambda *inputs: relative_attention_2d(*inputs, implementation="reference"), *arrays)
        expected = [output, *pullback(cotangent)]
    names = ("output", "query", "key", "value", "rel_height", "rel_width")
    for name, implementation in pytorch_attention.IMPLEMENTATIONS.items():
        leaves = pytorch_leaves(arrays, device, "float32")
        try:
            found = _value_and_gradients(implementation, leaves, cotangent.transpose(0, 3, 1, 2, 4))
        except Exception:
            if name != "pytorch_flex":
                raise
            found = _value_without_gradients(implementation, leaves)
        for which, ours, theirs in zip(names, expected, found, strict=False):
            theirs = theirs.transpose(0, 2, 3, 1, 4) if theirs.ndim == 5 else theirs
            np.testing.assert_allclose(
                theirs, ours, rtol=_RELATIVE, atol=_ABSOLUTE * float(np.abs(ours).max()), err_msg=f"{name} {which}"
            )


def pytorch_leaves(arrays: Sequence[np.ndarray], device: str, dtype: str) -> list[Any]:
    """Return our arrays as PyTorch leaves that require gradients, with heads before positions."""
    import torch

    moved = [np.ascontiguousarray(a.transpose(0, 3, 1, 2, 4) if a.ndim == 5 else a) for a in arrays]
    return [torch.tensor(a, device=device, dtype=getattr(torch, dtype)).requires_grad_() for a in moved]


def copy_parameters(layer: AAConv2D, module: Any) -> None:
    """Copy our layer's parameters into a `pytorch_layer.AAConv2d`."""
    import torch

    assert layer.conv is not None and layer.qkv is not None and layer.out is not None
    assert layer.rel_height is not None and layer.rel_width is not None
    with torch.no_grad():
        for name in ("conv", "qkv", "out"):
            kernel = np.asarray(getattr(layer, name).kernel[...], np.float32).transpose(3, 2, 0, 1)
            getattr(module, name).weight.copy_(torch.tensor(kernel))
        for name in ("rel_height", "rel_width"):
            getattr(module, name).copy_(torch.tensor(np.asarray(getattr(layer, name)[...], np.float32)))


def check_layer(layer: AAConv2D, module: Any, x: np.ndarray) -> None:
    """Check that a layer and the PyTorch module with its parameters agree in output and gradient by the input."""
    import torch

    cotangent = np.random.default_rng(3).normal(size=(*x.shape[:3], layer.out_features)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        output, pullback = jax.vjp(layer.__call__, x)
        expected = [output, *pullback(cotangent)]
    device = next(module.parameters()).device
    leaf = torch.tensor(x.transpose(0, 3, 1, 2), device=device).requires_grad_()
    # cuDNN rounds convolutions to TensorFloat-32 unless told otherwise.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = _value_and_gradients(module, [leaf], cotangent.transpose(0, 3, 1, 2))
    for ours, theirs in zip(expected, found, strict=True):
        ours = np.asarray(ours).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(theirs, ours, rtol=_RELATIVE, atol=1e-4 * float(np.abs(ours).max()))


def _value_without_gradients(function: Any, leaves: Sequence[Any]) -> list[np.ndarray]:
    try:
        return [function(*(leaf.detach() for leaf in leaves)).cpu().numpy()]
    except Exception:
        return []


def _value_and_gradients(function: Any, leaves: Sequence[Any], cotangent: np.ndarray) -> list[np.ndarray]:
    import torch

    output = function(*leaves)
    gradients = torch.autograd.grad(output, leaves, torch.tensor(np.ascontiguousarray(cotangent), device=output.device))
    return [tensor.detach().cpu().numpy() for tensor in (output, *gradients)]
