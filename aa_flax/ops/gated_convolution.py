"""Convolution of each sample with its own kernel: one shared kernel, multiplied by a gate for each sample.

    O[n] = conv(I[n], K · gate[n])

This equals gating what each tap (location) of the kernel sees, separately by output channel (Zhu et al., 2021):

    O[n, p, o] = sum over taps t and channels c of (I[n, p + t, c] · gate[n, t, c, o]) · K[t, c, o]
"""

import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from aa_flax.ops.gated_choice import Call, choose
from aa_flax.ops.mesh import over_batch
from aa_flax.ops.platform import target_platform
from aa_flax.ops.windows import shifted
from aa_flax.precision import at_least_float32

Form = Literal["fold", "tap", "loop"]


class Forms(NamedTuple):
    """Forms in which three results are computed: the convolution, its input gradient, its kernel and gate gradients.

    fold: samples become groups of one convolution; XLA multiplies kernel and gate as it reads them.
    tap:  one 1×1 convolution for each tap, whose result is gated; builds no kernel per sample if the gate does not
          depend on the input channel.
    loop: one convolution for each sample; the reference, for all three results or for none.
    """

    forward: str
    inputs: str
    weights: str


class _Window(NamedTuple):
    """Hashable settings of a convolution."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def gated_convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw cg o"],
    gate: Float[Array, "b kh kw gc o"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    implementation: str | Forms = "auto",
) -> Float[Array, "b hs ws o"]:
    """Convolve each sample with `kernel * gate[sample]`; differentiable once, in reverse mode.

    Args:
        x: the maps, one for each sample.
        kernel: as for `jax.lax.conv_general_dilated` with dimension numbers NHWC, HWIO, NHWC.
        gate: one array of the kernel's shape for each sample; with gc = 1, one number for all input channels.
        strides, padding, dilation: of the convolution; the dilation is that of the kernel.
        groups: feature groups; as many as input channels for a depthwise convolution.
        implementation: "fold", "tap", "loop", three of them as `Forms`, or "auto", which chooses by platform and shape
            from the table in `aa_flax.ops.gated_choice`. All give the same results up to rounding.

    Raises:
        ValueError: shapes that do not fit, an unknown implementation, or one that does not take a symbolic batch.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(f"x and kernel must be [b, h, w, c] and [kh, kw, cg, o], got {x.shape} and {kernel.shape}")
    if min(*strides, *dilation, groups) < 1:
        raise ValueError(f"strides, dilation and groups must be at least 1, got {strides}, {dilation} and {groups}")
    kh, kw, cg, features = kernel.shape
    if x.shape[-1] != cg * groups or features % groups:
        raise ValueError(
            f"kernel must be [kh, kw, {x.shape[-1]} / groups, a multiple of groups] for groups={groups}, "
            f"got {kernel.shape}"
        )
    if gate.shape not in ((x.shape[0], kh, kw, cg, features), (x.shape[0], kh, kw, 1, features)):
        raise ValueError(f"gate must be [b, kh, kw, 1 or c / groups, o] for kernel {kernel.shape}, got {gate.shape}")
    window = _Window(tuple(strides), tuple((low, high) for low, high in padding), tuple(dilation), groups)
    height, width = (
        (size + sum(pad) - step * (side - 1) - 1) // stride + 1
        for size, pad, step, side, stride in zip(
            x.shape[1:3], window.padding, window.dilation, (kh, kw), window.strides, strict=True
        )
    )
    if min(height, width) < 1 or x.shape[0] == 0:  # a comparison that a symbolic batch can answer
        raise ValueError(f"nothing is left to compute for x {x.shape}, kernel {kernel.shape} and padding {padding}")
    check_implementation(implementation)
    if implementation == "auto":
        fitting = choose(Call(target_platform(), height, width, cg, features, groups, gate.shape[3] == 1))
        forms = Forms(*("tap",) * 3) if is_symbolic_dim(x.shape[0]) else Forms(*fitting)
    else:
        forms = Forms(*(implementation,) * 3) if isinstance(implementation, str) else Forms(*implementation)
    if is_symbolic_dim(x.shape[0]) and set(forms) != {"tap"}:
        raise ValueError(f"only implementation 'tap' takes a symbolic batch, got {forms} and the symbol {x.shape[0]}")
    if "loop" in forms:
        if set(forms) != {"loop"}:
            raise ValueError(f"implementation 'loop' cannot be mixed with others, got {forms}")
        run = functools.partial(_loop, window)
    else:
        run = functools.partial(_convolution, window, forms)
    return over_batch(run, (True, False, True))(x, kernel, gate)


def check_implementation(implementation: Any) -> None:
    """Raise a ValueError that names `implementation` if `gated_convolution` does not know it."""
    single = implementation in ("auto", *get_args(Form))
    if not single and (len(implementation or "") != 3 or not {*implementation} <= {*get_args(Form)}):
        raise ValueError(f"implementation must be 'auto', one or three of {get_args(Form)}, got {implementation!r}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolution(window: _Window, forms: Forms, x: Array, kernel: Array, gate: Array) -> Array:
    if forms.forward == "fold":
        return _fold(x, _gated(kernel, gate, x.dtype), window)
    return _taps(x, kernel, gate, window)


def _forward(window: _Window, forms: Forms, *operands: Array) -> tuple[Array, tuple[Array, ...]]:
    return _convolution(window, forms, *operands), operands


def _backward(window: _Window, forms: Forms, operands: tuple[Array, ...], dy: Array) -> tuple[Array, ...]:
    x, kernel, gate = operands
    inputs = _inputs_by_fold if forms.inputs == "fold" else _inputs_by_tap
    dx = inputs(x, kernel, gate, dy, window)
    weights = _weights_by_fold if forms.weights == "fold" else _weights_by_tap
    dkernel, dgate = weights(x, kernel, gate, dy, window)
    return dx, dkernel.astype(kernel.dtype), dgate.astype(gate.dtype)


_convolution.defvjp(_forward, _backward)


def _gated(kernel: Array, gate: Array, dtype: Any) -> Float[Array, "b kh kw cg o"]:
    """Return the kernel of each sample, multiplied by its gate in at least float32 and rounded once."""
    wide = _wide(kernel, gate)
    return (kernel.astype(wide)[None] * gate.astype(wide)).astype(dtype)


def _fold(x: Array, kernels: Array, window: _Window) -> Array:
    """Convolve sample n with kernel n, as one grouped convolution."""
    return jax.vmap(lambda sample, kernel: _conv(sample[None], kernel, window)[0])(x, kernels)


def _inputs_by_fold(x: Array, kernel: Array, gate: Array, dy: Array, window: _Window) -> Array:
    """Return the input gradient: `dy` convolved with each sample's kernel, flipped and transposed by `_turned`.

    JAX's own transposition would hold the kernels of all samples in memory to flip them. Here the shared kernel and the
    gates are flipped, and multiplied where the convolution reads them.
    """
    if window.groups > 1:
        gate = jnp.broadcast_to(gate, (*gate.shape[:3], *kernel.shape[2:]))
    padding = _padding_back(x, kernel, dy, window)

    def convolve(sample: Array, own: Array) -> Array:
        return jax.lax.conv_general_dilated(
            sample[None],
            own,
            (1, 1),
            padding,
            lhs_dilation=window.strides,
            rhs_dilation=window.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=window.groups,
        )[0]

    return jax.vmap(convolve)(dy, _gated(_turned(kernel, window.groups), _turned(gate, window.groups), dy.dtype))


def _inputs_by_tap(x: Array, kernel: Array, gate: Array, dy: Array, window: _Window) -> Array:
    """Return the input gradient, computed one tap after the other."""
    if kernel.shape[2] > 1 or kernel.shape[3] > x.shape[-1]:
        (dx,) = jax.linear_transpose(lambda x: _taps(x, kernel, gate, window), x)(dy)
        return dx
    # Depthwise: a gather, so that all taps are one pass over `dy`, with zeros between its rows and columns for strides.
    spread = [(0, 0, stride - 1) for stride in window.strides]
    wide = jax.lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    back = _Window((1, 1), _padding_back(x, kernel, dy, window), window.dilation, window.groups)
    return _taps(wide, jnp.flip(kernel, (0, 1)), jnp.flip(gate, (1, 2)), back)


def _turned(array: Array, groups: int) -> Float[Array, "*b kh kw og gc"]:
    """Return [*b, kh, kw, c, o] with the taps in reverse order, and inputs and outputs exchanged in each group."""
    *lead, inputs, outputs = array.shape
    by_group = jnp.flip(array, (-4, -3)).reshape(*lead, inputs, groups, outputs // groups)
    return jnp.swapaxes(by_group, -3, -1).reshape(*lead, outputs // groups, groups * inputs)


def _padding_back(x: Array, kernel: Array, dy: Array, window: _Window) -> tuple[tuple[int, int], ...]:
    """Return the padding of the convolution that makes the input gradient from `dy`, dilated by the strides."""
    spans = (step * (side - 1) for step, side in zip(window.dilation, kernel.shape[:2], strict=True))
    axes = zip(window.padding, spans, window.strides, x.shape[1:3], dy.shape[1:3], strict=True)
    return tuple((span - low, size - 1 - (out - 1) * stride + low) for (low, _), span, stride, size, out in axes)


def _loop(window: _Window, x: Array, kernel: Array, gate: Array) -> Array:
    kernels = _gated(kernel, gate, x.dtype)
    return jnp.concatenate([_conv(x[n : n + 1], kernels[n], window) for n in range(x.shape[0])])


def _taps(x: Array, kernel: Array, gate: Array, window: _Window) -> Array:
    """Return the convolution as a sum over the kernel's taps, summed in at least float32."""
    total: Any = 0
    for view, part, gates in _by_tap(x, kernel, gate, window):
        total += _tap(view, part, gates, window.groups)
    return total.astype(x.dtype)


def _tap(view: Array, part: Array, gates: Array, groups: int) -> Float[Array, "b hs ws o"]:
    """Return the contribution of one tap; `part` is [cg, o], `gates` [b, 1 or cg, o]."""
    wide = _wide(view, gates)
    if part.shape[0] == 1:  # depthwise: each channel by itself, its outputs side by side
        wider = jnp.repeat(view, part.shape[1] // view.shape[-1], -1) if part.shape[1] > view.shape[-1] else view
        return wider.astype(wide) * (part.astype(wide)[None] * gates.astype(wide))[:, None]
    if gates.shape[1] == 1:
        return _pointwise(view, part, groups) * gates.astype(wide)[:, None]
    own = (part.astype(wide)[None] * gates.astype(wide)).astype(view.dtype)
    b, h, w, _ = view.shape
    grouped = own.reshape(b, part.shape[0], groups, -1)
    products = jnp.einsum("bhwgc,bcgo->bhwgo", view.reshape(b, h, w, groups, -1), grouped, preferred_element_type=wide)
    return products.reshape(b, h, w, -1)


def _weights_by_fold(x: Array, kernel: Array, gate: Array, dy: Array, window: _Window) -> tuple[Array, Array]:
    """Return the gradients of kernel and gate, computed from the gradient of each sample's kernel."""
    shape = jax.ShapeDtypeStruct((x.shape[0], *kernel.shape), x.dtype)
    (own,) = jax.linear_transpose(lambda kernels: _fold(x, kernels, window), shape)(dy)
    return _from_own(own, kernel[None], gate, axis=3)


def _weights_by_tap(x: Array, kernel: Array, gate: Array, dy: Array, window: _Window) -> tuple[Array, Array]:
    """Return the gradients of kernel and gate, computed one tap after the other."""
    of_kernel, of_gate = [], []
    wide = _wide(kernel, gate)
    b, cg, features = x.shape[0], *kernel.shape[2:]
    # The gradients of each sample's weights are larger than the maps if a map has fewer locations than channels.
    separable = gate.shape[3] == 1 < cg and math.prod(dy.shape[1:3]) < cg
    for view, part, gates in _by_tap(x, kernel, gate, window):
        if separable:
            gated = (dy.astype(wide) * gates.astype(wide)[:, None]).astype(dy.dtype)
            grouped = (*view.shape[:3], window.groups, -1)
            products = jnp.einsum("bhwgc,bhwgo->cgo", view.reshape(grouped), gated.reshape(grouped))
            of_kernel.append(products.reshape(cg, features).astype(wide))
            products = _pointwise(view, part, window.groups) * dy.astype(wide)
            of_gate.append(products.sum((1, 2))[:, None])
        else:
            grouped = (*view.shape[:3], window.groups, -1)
            own = jnp.einsum(
                "bhwgc,bhwgo->bcgo", view.reshape(grouped), dy.reshape(grouped), preferred_element_type=wide
            )
            found = _from_own(own.reshape(b, cg, features), part[None], gates, axis=1)
            of_kernel.append(found[0])
            of_gate.append(found[1])
    return jnp.stack(of_kernel).reshape(kernel.shape), jnp.stack(of_gate, 1).reshape(gate.shape)


def _from_own(own: Array, kernel: Array, gate: Array, axis: int) -> tuple[Array, Array]:
    """Return the gradients of kernel and gate from `own`, that of each sample's kernel; `axis` holds input channels."""
    wide = _wide(kernel, gate)
    own = own.astype(wide)
    of_gate = own * kernel.astype(wide)
    if gate.shape[axis] == 1:
        of_gate = of_gate.sum(axis, keepdims=True)
    return (own * gate.astype(wide)).sum(0), of_gate


def _by_tap(x: Array, kernel: Array, gate: Array, window: _Window) -> Any:
    """Yield, for each tap, what it sees [b, hs, ws, c], its weights [cg, o] and its gates [b, 1 or cg, o]."""
    sides = [step * (side - 1) + 1 for step, side in zip(window.dilation, kernel.shape[:2], strict=True)]
    padded = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    views = [*shifted(padded, sides, window.strides)]
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            yield views[i * window.dilation[0] * sides[1] + j * window.dilation[1]], kernel[i, j], gate[:, i, j]


def _pointwise(view: Array, part: Array, groups: int) -> Array:
    """Return the product of [b, hs, ws, c] and [cg, o] by group, in at least float32."""
    b, h, w, _ = view.shape
    grouped, part = view.reshape(b, h, w, groups, -1), part.astype(view.dtype).reshape(part.shape[0], groups, -1)
    products = jnp.einsum("bhwgc,cgo->bhwgo", grouped, part, preferred_element_type=_wide(view))
    return products.reshape(b, h, w, -1)


def _conv(x: Array, kernel: Array, window: _Window) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def _wide(*arrays: Array) -> Any:
    return at_least_float32(*(array.dtype for array in arrays))
