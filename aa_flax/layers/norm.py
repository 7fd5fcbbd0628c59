"""Normalisation, as factories that models take."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx


@runtime_checkable  # the shape checker of the tests asks
class NormFactory(Protocol):
    """Builds a normalisation over the channels, called as `norm(x, use_running_average=not train)`."""

    def __call__(self, features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.BatchNorm: ...


def batch_norm(
    features: int,
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.BatchNorm:
    """Batch normalisation with the momentum (of the old statistics) and epsilon of the ResNet recipes.

    Statistics are computed in at least float32; under `jax.jit` with a sharded batch, those of the global batch.
    """
    return nnx.BatchNorm(
        features,
        use_running_average=None,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
