"""Checks of the whole `AAConv2D` on the device against the CPU: kernels may read its projections directly."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D
from experiments.benchmarks.candidates import is_refusal, reason

# Height, width, channels in and out: those of ResNet-50 and Wide-ResNet, and one with sides that no tile divides.
SIZES = ((14, 14, 256), (7, 7, 512), (32, 32, 160), (5, 11, 48))
TINY_SIZES = ((4, 5, 32),)
_BATCH = 2

TOLERANCES = {
    # Sums of up to 4,608 products of a 3×3 convolution, and of all images' gradients, in another order.
    "float32": 1e-4,
    # Weights are rounded to 8 bits too, and so are the results of three successive products.
    "bfloat16": 3e-2,
}
"""Largest permitted error of a result or gradient, relative to its largest entry on the CPU in float32."""


def checks(rehearse: bool) -> list[tuple[int, int, int, str]]:
    """Return height, width, channels and dtype of each check, bfloat16 first."""
    return [(*size, dtype) for dtype in sorted(TOLERANCES) for size in (TINY_SIZES if rehearse else SIZES)]


def row(name: str, check: tuple[int, int, int, str]) -> dict[str, Any]:
    """Return the row of an implementation, as the part "correct" writes it."""
    height, width, features, dtype = check
    tolerance = TOLERANCES[dtype]
    columns: dict[str, Any] = {"layer": f"AAConv2D({features})", "map": f"{height}x{width}", "dtype": dtype}
    columns |= {"precision": "highest", "tolerance": tolerance, "batch": _BATCH}
    try:
        found = errors(name, (height, width), features, dtype)
    except Exception as error:
        refused = {"refused": True} if is_refusal(error) else {}
        return columns | {"passed": False, "reason": reason(error)} | refused
    worst = max(found, key=lambda key: found[key] if found[key] == found[key] else float("inf"))
    passed = found[worst] <= tolerance
    columns |= {"passed": passed, "errors": {worst: found[worst]}}
    return columns | ({} if passed else {"reason": f"{worst} of the layer is off by {found[worst]:.2g}"})


def errors(name: str, size: tuple[int, int], features: int, dtype: str) -> dict[str, float]:
    """Return the errors of the result and of the gradients by the input and each parameter."""
    on_device = _results(name, jax.devices()[0], size, features, dtype)
    found = {}
    for path, theirs in jax.tree_util.tree_leaves_with_path(_on_cpu(size, features)):
        ours = on_device
        for part in path:
            ours = ours[part.key]
        difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()
        found[".".join(str(part.key) for part in path)] = float(difference / np.abs(theirs).max())
    return found


@functools.cache
def _on_cpu(size: tuple[int, int], features: int) -> dict[str, Any]:
    return _results("folded", jax.local_devices(backend="cpu")[0], size, features, "float32")


def _results(name: str, device: Any, size: tuple[int, int], features: int, dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(sum(size) + features)
    x = np.asarray(jnp.asarray(rng.normal(size=(_BATCH, *size, features)), jnp.bfloat16), np.float32)
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        layer = AAConv2D(
            features,
            features,
            3,
            kappa=0.25,
            upsilon=0.25,
            spatial_shape=size,
            implementation=name,
            dtype=jnp.dtype(dtype),
            rngs=nnx.Rngs(0),
        )
        graph, params = nnx.split(layer)

        def run(params: Any, x: jax.Array, cotangent: jax.Array) -> dict[str, Any]:
            output, pullback = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
            by_params, by_x = pullback(cotangent.astype(output.dtype))
            return {"result": output, "by": {"input": by_x, **by_params}}

        arrays = jax.device_put((nnx.to_pure_dict(params), jnp.asarray(x, dtype), cotangent), device)
        return jax.tree.map(np.asarray, jax.jit(run)(*arrays))
