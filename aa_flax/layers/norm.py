"""Normalisation, as factories that models take."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@runtime_checkable  # the shape checker of the tests asks
class NormFactory(Protocol):
    """Builds a normalisation over the channels, called as `norm(x, use_running_average=not train)`."""

    def __call__(self, features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.BatchNorm: ...


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation that can be frozen: then it keeps and uses its running statistics in training too."""

    frozen = False

    def __call__(
        self, x: Float[Array, "*b c"], use_running_average: bool | None = None, *, mask: Any = None
    ) -> Float[Array, "*b c"]:
        """Statistics over all axes but the last, in at least float32."""
        return super().__call__(x, use_running_average=self.frozen or use_running_average, mask=mask)

    def scale_and_shift(
        self, x: Float[Array, "*b c"], use_running_average: bool
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """What a call does to `x`, as two numbers a channel: `norm(x) = x * scale + shift`.

        Updates the running statistics as the call does. In at least float32.
        """
        if use_running_average or self.frozen:
            mean, variance = self.mean[...], self.var[...]
        else:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            variance = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
            for running, current in ((self.mean, mean), (self.var, variance)):
                running[...] = self.momentum * running[...] + (1 - self.momentum) * current
        scale = jax.lax.rsqrt(variance + self.epsilon)
        if self.scale is not None:
            scale *= self.scale[...]
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias[...]


def batch_norm(
    features: int,
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    scale_init: Any = nnx.initializers.ones_init(),  # noqa: B008, a pure function
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
) -> BatchNorm:
    """Batch normalisation with the momentum (of the old statistics) and epsilon of the ResNet recipes.

    Statistics are computed in at least float32; under `jax.jit` with a sharded batch, those of the global batch.
    """
    return BatchNorm(
        features,
        use_running_average=None,
        momentum=momentum,
        epsilon=epsilon,
        scale_init=scale_init,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
