"""Normalisation layers, and the factories of them that models take."""

import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.ops.moments import moments
from aa_flax.precision import at_least_float32


@runtime_checkable  # the shape checker of the tests calls isinstance
class NormFactory(Protocol):
    """Function that builds a normalisation over the channels, called as `norm(x, use_running_average=...)`.

    The argument is True, False or None, which is the mode that `train()` and `eval()` of a module around it have set.
    """

    def __call__(self, features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.BatchNorm: ...


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation that can be frozen, and that can compute its statistics over parts of a batch.

    If frozen, it uses its running statistics in training too and does not change them. With `groups` above 1, a batch
    is divided into that many equal parts of consecutive examples. In training each part is normalised by its own mean
    and variance, as if it were a batch, and the running statistics are updated with the means of these over the parts.
    The result depends on the number of groups and not on that of devices. As many groups as devices are what other code
    calls statistics "per device", and need no communication.

    Statistics, scale and bias stay in at least float32 in 16-bit networks too; the variance loses no precision if the
    mean is large (`aa_flax.ops.moments`).
    """

    frozen = False
    groups = 1

    def __init__(self, num_features: int, *, param_dtype: Any = jnp.float32, **options: Any) -> None:
        """Build it as `nnx.BatchNorm` does, but with running statistics in `param_dtype` or float32, the wider one."""
        super().__init__(num_features, param_dtype=param_dtype, **{"use_fast_variance": False, **options})
        dtype = at_least_float32(param_dtype)
        self.mean, self.var = (nnx.BatchStat(running[...].astype(dtype)) for running in (self.mean, self.var))

    def __call__(
        self, x: Float[Array, "*b c"], use_running_average: bool | None = None, *, mask: Any = None
    ) -> Float[Array, "*b c"]:
        """Normalise over all axes but the last.

        Args:
            x: at least two axes, the first of them the batch.
            use_running_average: whether the running statistics are used, and not updated; None is the mode that
                `train()` and `eval()` set.
            mask: True where an entry counts for the statistics, of a shape that broadcasts to that of `x`.

        Raises:
            ValueError: the groups do not divide the first axis, or are several with a mask; in training a channel has
                one value in each.
        """
        running = self._runs(use_running_average)
        if mask is not None and not running and self.groups > 1:
            raise ValueError(f"a mask serves one group of batch norm, got {self.groups}")
        if mask is not None or self.axis_name is not None or self.axis not in (-1, x.ndim - 1):
            return super().__call__(x, use_running_average=running, mask=mask)
        parts, mean, variance = self._statistics(x, running)
        return _normalized(parts, mean, variance, self).reshape(x.shape)

    def scale_and_shift(
        self, x: Float[Array, "*b c"], use_running_average: bool | None
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Return what a call does to `x`, as two numbers for each channel: `norm(x) = x * scale + shift`.

        Both are in at least float32. It updates the running statistics as the call does. If the mean is far larger than
        the standard deviation, the two terms cancel, and the call itself is more precise.

        Raises:
            ValueError: more than one group.
        """
        if self.groups > 1:
            raise ValueError(f"scale_and_shift serves one group of batch norm, got {self.groups}")
        _, mean, variance = self._statistics(x, self._runs(use_running_average))
        scale = jax.lax.rsqrt(variance.reshape(-1) + self.epsilon)
        if self.scale is not None:
            scale *= self.scale[...].astype(scale.dtype)
        shift = -mean.reshape(-1) * scale
        return scale, shift if self.bias is None else shift + self.bias[...].astype(scale.dtype)

    def _runs(self, use_running_average: bool | None) -> bool:
        """Return whether a call uses the running statistics: always if frozen, else by its argument or by the mode."""
        by_mode = self.use_running_average if use_running_average is None else use_running_average
        return bool(self.frozen or by_mode)

    def _statistics(self, x: Array, running: bool) -> tuple[Array, Array, Array]:
        """Return `x` by group, and a mean and a variance that broadcast to it; update the running statistics."""
        if running:
            return x, _broadcast(self.mean, x), _broadcast(self.var, x)
        if x.shape[0] % self.groups:
            raise ValueError(f"a batch of {x.shape[0]} does not divide into {self.groups} groups of batch norm")
        grouped = self.groups > 1
        parts = x.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:]) if grouped else x
        axes = tuple(range(grouped, parts.ndim - 1))
        if math.prod(parts.shape[axis] for axis in axes) == 1:
            raise ValueError(
                f"batch norm in training got one value a channel, which has no variance: an input of shape {x.shape}"
                f"{f' in {self.groups} groups' * grouped}; train with more images at once, or with larger ones"
            )
        mean, variance = moments(parts, axes, expected=self.mean[...], epsilon=self.epsilon)
        for kept, current in ((self.mean, mean), (self.var, variance)):
            current = current.reshape(self.groups, -1).mean(0).astype(kept[...].dtype)
            kept[...] = self.momentum * kept[...] + (1 - self.momentum) * current
        return parts, mean, variance


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the last axis, in at least float32 in 16-bit networks too.

    The variance is the mean square of deviations, which loses no precision if the mean is large.
    """

    def __init__(self, num_features: int, **options: Any) -> None:
        """Build it as `nnx.LayerNorm` does, but with a variance that is precise with a `mask` too."""
        super().__init__(num_features, **{"use_fast_variance": False, **options})

    def __call__(self, x: Float[Array, "*b c"], *, mask: Any = None) -> Float[Array, "*b c"]:
        """Normalise over the last axis; with a `mask`, as `nnx.LayerNorm` does."""
        if mask is not None or self.axis_name is not None or (self.reduction_axes, self.feature_axes) != (-1, -1):
            return super().__call__(x, mask=mask)
        wide = x.astype(at_least_float32(x.dtype))
        mean = wide.mean(-1, keepdims=True)
        return _normalized(x, mean, jnp.square(wide - mean).mean(-1, keepdims=True), self)


def _normalized(x: Array, mean: Array, variance: Array, norm: Any) -> Array:
    """Return `x` normalised, with the epsilon, scale, bias and dtype of a norm; computed in at least float32."""
    scale, bias = (None if each is None else _broadcast(each, x) for each in (norm.scale, norm.bias))
    compute = at_least_float32(*(each.dtype for each in (x, mean, scale, bias) if each is not None))
    factor = jax.lax.rsqrt(variance + norm.epsilon).astype(compute)
    if scale is not None:
        factor *= scale.astype(compute)
    y = (x.astype(compute) - mean.astype(compute)) * factor
    if bias is not None:
        y += bias.astype(compute)
    return y.astype(norm.dtype or x.dtype)


def _broadcast(by_channel: Any, x: Array) -> Array:
    """Return a variable [c] in at least float32, in a shape that broadcasts to [..., c]."""
    array = by_channel[...]
    return array.astype(at_least_float32(array.dtype)).reshape((1,) * (x.ndim - 1) + (-1,))


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
    """Build a batch normalisation with the momentum (of the old statistics) and epsilon of the ResNet recipes.

    It starts in evaluation (`use_running_average`). Statistics are computed in at least float32; under `jax.jit` with a
    sharded batch, they are those of the global batch.
    """
    return BatchNorm(
        features,
        use_running_average=True,  # the mode that it starts in
        momentum=momentum,
        epsilon=epsilon,
        scale_init=scale_init,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def set_groups(model: nnx.Module, groups: int) -> None:
    """Make every batch norm of a network compute its statistics over `groups` parts of a batch, see `BatchNorm`.

    Raises:
        ValueError: fewer than one group.
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.groups = groups
