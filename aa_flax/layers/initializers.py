"""Initial weights, drawn on the host.

A JAX sampler is compiled again for every kernel shape, which takes a quarter of a second each on a CPU, several seconds
for a network. These initializers draw from NumPy's Philox generator, keyed by the JAX key, and give the same numbers on
every platform. Inside a trace, where the key has no value, they use JAX's samplers: the same distribution, but other
numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array


def normal(stddev: float, mean: float = 0.0) -> nnx.Initializer:
    """Return an initializer that draws from a normal distribution with this standard deviation and mean."""

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        samples = _draw(key, shape, dtype, np.random.Generator.standard_normal, jax.random.normal)
        return jnp.asarray(samples * stddev + mean, dtype)

    return init


def uniform(bound: float) -> nnx.Initializer:
    """Return an initializer that draws from a uniform distribution between -bound and bound."""

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        samples = _draw(key, shape, dtype, np.random.Generator.random, jax.random.uniform)
        return jnp.asarray((2 * samples - 1) * bound, dtype)

    return init


def torch_defaults(fan_in: int) -> dict[str, Any]:
    """Return `kernel_init` and `bias_init` as PyTorch has them by default for a convolution or linear layer.

    Both are uniform within ±1 / sqrt(fan_in), where fan_in is how many numbers go into one output: 9 for a depthwise
    3×3 convolution.
    """
    init = uniform(fan_in**-0.5)
    return {"kernel_init": init, "bias_init": init}


def variance_scaling(
    scale: float, mode: Literal["fan_in", "fan_out", "fan_avg"], distribution: Literal["normal", "uniform"]
) -> nnx.Initializer:
    """Return an initializer with mean zero and variance scale / fan, for kernels of shape [..., in, out].

    fan_in is the product of all dimensions but the last, fan_out of all but the last but one, fan_avg their mean (He et
    al., 2015; Glorot & Bengio, 2010).
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        window = math.prod(shape[:-2])
        fans = {"fan_in": window * shape[-2], "fan_out": window * shape[-1]}
        fan = fans.get(mode, sum(fans.values()) / 2)
        stddev = math.sqrt(scale / fan)
        if distribution == "normal":
            return normal(stddev)(key, shape, dtype)
        return uniform(math.sqrt(3) * stddev)(key, shape, dtype)

    return init


he_normal_fan_out = variance_scaling(2.0, "fan_out", "normal")
"""Initializer for convolutions before a ReLU, as in the ResNet and Wide-ResNet code bases."""

glorot_uniform = variance_scaling(1.0, "fan_avg", "uniform")
"""Default initializer of the framework in which the paper's listing is written."""

lecun_normal = variance_scaling(1.0, "fan_in", "normal")
"""Initializer for linear layers that keep the variance."""


def _draw(
    key: Any,
    shape: Sequence[int],
    dtype: Any,
    on_host: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    in_trace: Callable[..., Array],
) -> Any:
    """Return standard samples: a NumPy array, so that scaling them compiles nothing, or in a trace a traced array."""
    if isinstance(key, jax.core.Tracer):
        return in_trace(key, tuple(shape), dtype)
    words = np.asarray(jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key)
    seed = int.from_bytes(words.astype("<u4").tobytes(), "little")
    return on_host(np.random.Generator(np.random.Philox(key=seed)), tuple(shape)).astype(jnp.dtype(dtype))
