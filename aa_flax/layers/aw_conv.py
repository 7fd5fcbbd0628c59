"""The AW-convolution: attention on the weights (Zhu et al., 2021, "An Attention Module for Convolutional Neural
Networks"). It is a reconstruction: only the paper's abstract and summaries by others were available, not its text."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import glorot_uniform, lecun_normal
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import batch_norm
from aa_flax.ops import gated_convolution
from aa_flax.ops.gated_convolution import Forms, check_implementation
from aa_flax.precision import at_least_float32

AWVariant = Literal["expand", "full", "outer"]
Pool = Literal["adaptive", "stride"]


class AWConv2D(nnx.Module):
    """A convolution whose kernel is gated, for each sample, by an attention map of the kernel's own shape.

        A = sigmoid(W2 relu(BN(W1 pool(I))))        pool(I) of the kernel's height and width; W1, W2 pointwise
        O = conv(I, K + A · K)

    Known from the summaries: the attention map of the kernel's shape, average pooling, two pointwise convolutions with
    a ReLU, the residual K. Reconstructed: pooling to the kernel's size, batch norm, sigmoid, the reduction, and how
    W2's channels become a kernel.

    Variants, where cg is the number of input channels of a group and a tap is a location of the kernel:
        expand: W2 has one output for each output channel and tap, shared by the input channels.
        full:   W2 is grouped, one group for each hidden channel, and outputs a gate for the whole kernel.
        outer:  A = sigmoid(u + v), u for each output channel and tap, v for each input channel (of a group) and tap.

    Parameters `kernel` [kh, kw, cg, out], `bias` [out] and `gate_scale` [] or None; sub-modules `squeeze` (W1, without
    bias), `bn`, `excite` (W2, with bias), `excite_inputs` (v of "outer", or None). The padding is
    dilation * (kernel_size - 1) // 2.

    Args:
        in_features, out_features: channels of the input and of the output.
        kernel_size: odd.
        strides, dilation: of the convolution, the same on both axes.
        groups: feature groups; in_features for a depthwise convolution, where "expand" and "full" are the same.
        variant: see above.
        pool: "adaptive": bins from floor(i H / kh) to ceil((i + 1) H / kh), as in PyTorch; "stride": windows of length
            H - (kh - 1) * floor(H / kh) at multiples of floor(H / kh).
        reduction: W1 has max(1, in_features // reduction) outputs.
        residual: whether K itself is added; otherwise O = conv(I, A · K).
        gate_scale: initial value of a trainable factor of A, or None for no such factor. With 0 the layer starts as the
            plain convolution by its kernel, for networks that start from the weights of a plain network.
        use_bias: whether the convolution has a bias.
        implementation: see `aa_flax.ops.gated_convolution`.
        kernel_init: initializer of the kernel.

    Raises:
        ValueError: settings that are impossible alone or together; at call time a channel count or rank that does not
            fit.
    """

    takes_train = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int = 1,
        dilation: int = 1,
        groups: int = 1,
        variant: AWVariant = "expand",
        pool: Pool = "adaptive",
        reduction: int = 16,
        residual: bool = True,
        gate_scale: float | None = None,
        use_bias: bool = False,
        implementation: str | Forms = "auto",
        kernel_init: nnx.Initializer = glorot_uniform,
        norm: Callable[..., nnx.Module] = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        for name, value in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("kernel_size", kernel_size),
            ("strides", strides),
            ("dilation", dilation),
            ("groups", groups),
            ("reduction", reduction),
        ):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"groups must divide in_features={in_features} and out_features={out_features}, got {groups}"
            )
        for name, choice, accepted in (
            ("variant", variant, get_args(AWVariant)),
            ("pool", pool, get_args(Pool)),
        ):
            if choice not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {choice!r}")
        if gate_scale is not None and not isinstance(gate_scale, Real):
            raise ValueError(f"gate_scale must be a number or None, got {gate_scale!r}")
        check_implementation(implementation)
        if gate_scale == 0 and not residual:
            raise ValueError("gate_scale=0 needs residual=True: without it the kernel would be zero")
        inputs, hidden = in_features // groups, max(1, in_features // reduction)
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        pointwise: dict[str, Any] = dict(kernel_init=lecun_normal, **options)
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.kernel_size, self.strides, self.dilation = int(kernel_size), int(strides), int(dilation)
        self.groups = int(groups)
        self.variant, self.pool, self.residual = variant, pool, residual
        self.implementation = implementation if isinstance(implementation, str) else Forms(*implementation)
        self.dtype = dtype
        shape = (self.kernel_size, self.kernel_size, inputs, self.out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((self.out_features,), param_dtype)) if use_bias else None
        self.squeeze = nnx.Linear(in_features, hidden, use_bias=False, **pointwise)
        self.bn: Any = norm(hidden, **options)
        self.bn.eval()  # every layer here starts in evaluation, whatever the factory sets
        self.excite: Any
        if variant == "full" and inputs > 1:
            if inputs * out_features % hidden:
                raise ValueError(
                    f"variant 'full' needs in_features / groups * out_features={inputs * out_features} to be a "
                    f"multiple of its {hidden} hidden channels; choose another reduction"
                )
            self.excite = nnx.Conv(hidden, inputs * out_features, (1, 1), feature_group_count=hidden, **pointwise)
        else:
            self.excite = nnx.Linear(hidden, out_features, **pointwise)
        self.excite_inputs = nnx.Linear(hidden, inputs, **pointwise) if variant == "outer" else None
        self.gate_scale = None if gate_scale is None else nnx.Param(jnp.asarray(gate_scale, param_dtype))

    def __call__(self, x: Float[Array, "b h w in"], *, train: bool | None = None) -> Float[Array, "b hs ws out"]:
        """Convolve [b, h, w, in] to [b, ceil(h/strides), ceil(w/strides), out].

        In training, the gate's batch norm updates its running statistics.
        """
        gate = self.attention(x, train=train)
        if self.gate_scale is not None:
            gate = gate * self.gate_scale[...].astype(gate.dtype)
        if self.residual:
            gate = 1 + gate
        padding = (self.dilation * (self.kernel_size - 1) // 2,) * 2
        y = gated_convolution(
            x.astype(self.dtype),
            self.kernel[...],
            gate,
            strides=(self.strides,) * 2,
            padding=(padding, padding),
            dilation=(self.dilation,) * 2,
            groups=self.groups,
            implementation=self.implementation,
        )
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None, None, None]

    def attention(self, x: Float[Array, "b h w in"], *, train: bool | None = None) -> Float[Array, "b kh kw cg out"]:
        """Return the attention maps A in (0, 1), in at least float32; with "expand" the axis of input channels is 1."""
        if x.ndim != 4 or x.shape[-1] != self.in_features or 0 in x.shape:
            raise ValueError(f"x must have shape [b, h, w, in_features={self.in_features}], got {x.shape}")
        pooled = pool_to(x.astype(self.dtype), self.kernel_size, self.pool)
        hidden = jax.nn.relu(self.bn(self.squeeze(pooled), use_running_average=evaluates(train)))
        logits = self._wide(self.excite(hidden))
        shape = (*logits.shape[:3], -1, self.out_features)
        if isinstance(self.excite, nnx.Conv):  # output channels outermost, as in the paper's kernel
            logits = jnp.swapaxes(logits.reshape(*shape[:3], self.out_features, -1), -1, -2)
        else:
            logits = logits.reshape(shape)
        if self.excite_inputs is not None:
            logits = logits + self._wide(self.excite_inputs(hidden))[..., None]
        return jax.nn.sigmoid(logits)

    @staticmethod
    def _wide(x: Array) -> Array:
        return x.astype(at_least_float32(x.dtype))


def pool_to(x: Float[Array, "b h w c"], size: int, pool: Pool) -> Float[Array, "b size size c"]:
    """Return the mean over each of size × size windows, see `AWConv2D`."""
    rows, columns = (jnp.asarray(_windows(length, size, pool), x.dtype) for length in x.shape[1:3])
    return jnp.einsum("jw,biwc->bijc", columns, jnp.einsum("ih,bhwc->biwc", rows, x))


def _windows(length: int, size: int, pool: Pool) -> Float[np.ndarray, "size length"]:
    """Return the weight of each location in each window."""
    weights = np.zeros((size, length))
    step = max(1, length // size)
    for i in range(size):
        if pool == "adaptive":
            first, end = i * length // size, math.ceil((i + 1) * length / size)
        else:
            first = min(i * step, length - 1)
            end = min(first + max(1, length - (size - 1) * step), length)
        weights[i, first:end] = 1 / (end - first)
    return weights
