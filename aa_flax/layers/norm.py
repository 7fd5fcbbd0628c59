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
    """Batch normalisation that can be frozen, and that can take its statistics over parts of a batch.

    Frozen it keeps and uses its running statistics in training too. With `groups` above 1 each of so many equal parts
    of a batch, consecutive examples, is normalised by its own mean and variance in training, as if it were a batch; the
    running statistics take in the means of these over the parts. That depends on the number of groups, not of devices:
    as many groups as devices are the statistics "per device" of other code, and need no communication.
    """

    frozen = False
    groups = 1

    def __init__(self, num_features: int, *, param_dtype: Any = jnp.float32, **options: Any) -> None:
        """As `nnx.BatchNorm`, but the running statistics are of `param_dtype` where that is wider than float32."""
        super().__init__(num_features, param_dtype=param_dtype, **options)
        dtype = jnp.promote_types(param_dtype, jnp.float32)
        self.mean, self.var = (nnx.BatchStat(running[...].astype(dtype)) for running in (self.mean, self.var))

    def __call__(
        self, x: Float[Array, "*b c"], use_running_average: bool | None = None, *, mask: Any = None
    ) -> Float[Array, "*b c"]:
        """Statistics over all axes but the last, in at least float32.

        Raises:
            ValueError: the groups do not divide the first axis.
        """
        if self.groups > 1 and not (self.frozen or use_running_average or self.use_running_average):
            return self._by_group(x)
        return super().__call__(x, use_running_average=self.frozen or use_running_average, mask=mask)

    def _by_group(self, x: Array) -> Array:
        if x.shape[0] % self.groups:
            raise ValueError(f"a batch of {x.shape[0]} does not divide into {self.groups} groups of batch norm")
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])
        axes = tuple(range(1, wide.ndim - 1))
        mean = wide.mean(axes, keepdims=True)
        variance = jnp.maximum(jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean), 0)
        self._run(*(moment.reshape(self.groups, -1).mean(0) for moment in (mean, variance)))
        factor = jax.lax.rsqrt(variance + self.epsilon)
        if self.scale is not None:
            factor *= self.scale[...].reshape((1,) * axes[-1] + (1, -1))
        y = (wide - mean) * factor
        if self.bias is not None:
            y += self.bias[...].reshape((1,) * axes[-1] + (1, -1))
        return y.reshape(x.shape).astype(self.dtype)

    def _run(self, mean: Array, variance: Array) -> None:
        for running, current in ((self.mean, mean), (self.var, variance)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * current

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
            self._run(mean, variance)
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


def set_groups(model: nnx.Module, groups: int) -> None:
    """Make every batch norm of a network take its statistics over so many parts of a batch, see `BatchNorm`."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.groups = groups
