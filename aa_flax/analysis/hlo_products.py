"""Floating-point operations of convolutions and matrix products in a compiled program."""

import functools
import math
import re

from aa_flax.analysis.hlo import Program, Site, arrays


def products_of(program: Program, site: Site) -> int:
    """Return 2 × the multiply-adds of a convolution or matrix product, without those on padding or dilation's zeros."""
    instruction = site.instruction
    target = instruction.custom_call_target
    if instruction.opcode == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    elif target.startswith("__cublas$"):
        contracted = (instruction.attribute(r'"lhs_contracting_dimensions":\[([\d",]*)\]') or "").replace('"', "")
    elif instruction.opcode == "convolution" or target.startswith("__cudnn$conv"):
        return _of_convolution(program, site)
    elif target.startswith("__cudnn$fmha"):
        return _of_attention(program, site)
    else:
        return 0
    factor, out = arrays(program.operands(site)[0])[0], arrays(instruction.shape)[0]
    inner = math.prod(factor.dimensions[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * inner * math.prod(out.dimensions)


def precision_of(program: Program, site: Site) -> str:
    """Return the precision that a GPU multiplies in by XLA's rules: the dtype, or "tf32" unless float32 is asked for.

    float16 counts as bfloat16, which has the same speed.
    """
    instruction = site.instruction
    dtype = arrays(program.operands(site)[0])[0].dtype
    if dtype != "f32":
        return {"bf16": "bfloat16", "f16": "bfloat16", "f64": "float64"}.get(dtype, dtype)
    asked = instruction.attribute(r"operand_precision=\{(\w+)") or instruction.attribute(
        r'"operand_precision":\["(\w+)'
    )
    return "float32" if (asked or "").lower() == "highest" else "tf32"


def _of_attention(program: Program, site: Site) -> int:
    """Return the operations of cuDNN's fused attention: two products over all pairs of positions, backward five."""
    instruction = site.instruction
    pairs = math.prod(map(int, re.findall(r"\d+", instruction.attribute(r'"dimensions": ?\[([^\]]*)\]') or "0")))
    query, _, value = (arrays(shape)[0].dimensions[-1] for shape in program.operands(site)[:3])
    backward = instruction.custom_call_target.endswith("Backward")
    return 2 * pairs * (3 * query + 2 * value if backward else query + value)


def _of_convolution(program: Program, site: Site) -> int:
    """Return the operations of a convolution, XLA's or cuDNN's.

    cuDNN's gradients name input, kernel and output of the forward pass.
    """
    instruction = site.instruction
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 0
    first, second = (arrays(shape)[0].dimensions for shape in program.operands(site)[:2])
    result = arrays(instruction.shape)[0].dimensions
    left, kernel, out = {
        "__cudnn$convBackwardFilter": (first, result, second),
        "__cudnn$convBackwardInput": (result, second, first),
    }.get(instruction.custom_call_target, (first, second, result))
    window = dict(re.findall(r"(\w+)=([\w\-]+)", instruction.attribute(r"window=\{([^}]*)\}") or ""))
    spatial = [label for label in labels[3] if label.isdigit()]

    def setting(name: str, default: str) -> list[str]:
        return window[name].split("x") if name in window else [default] * len(spatial)

    pairs = 1
    for axis, *settings in zip(spatial, *(setting(*pair) for pair in _WINDOW.items()), strict=True):
        stride, padding, dilation, kernel_dilation = (int(each.split("_")[0]) for each in settings)
        sizes = left[labels[1].index(axis)], kernel[labels[2].index(axis)], out[labels[3].index(axis)]
        pairs *= _valid_pairs(*sizes, stride, padding, dilation, kernel_dilation)
    groups = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    channels = kernel[labels[2].index("i")] * kernel[labels[2].index("o")]
    return 2 * channels * (left[labels[1].index("b")] // groups) * pairs


_WINDOW = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
"""Settings of a convolution's window in the text, and their defaults."""


@functools.cache
def _valid_pairs(
    size: int, kernel: int, out: int, stride: int, padding: int, dilation: int, kernel_dilation: int
) -> int:
    """Return how many pairs of output and kernel position along one axis meet an element of the input."""
    pairs = 0
    for position in range(kernel):
        for output in range(out):
            place = output * stride + position * kernel_dilation - padding
            pairs += 0 <= place <= (size - 1) * dilation and place % dilation == 0
    return pairs
