"""What a compiled program reads, writes and multiplies, summed over its text.

The compiler's own counts have two gaps, which these sums fill: they take arrays that stay in the memory beside the
cores like those in HBM, although only the latter are slow, and the body of a loop once, however often it runs. Of the
stacks from which such a body takes one slice, and into which it writes one, only that slice counts.
"""

import functools
import math
import re
from dataclasses import dataclass

from aa_flax.analysis.hlo import Array, Program, Site, arrays
from aa_flax.analysis.hlo_slices import bytes_read, bytes_written

_NOTHING = frozenset(
    {"parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"}
    | {"partition-id", "replica-id", "call", "while", "conditional", "async-start", "async-update", "async-done"}
)
"""Instructions that move nothing themselves."""

_NAMES_MEMORY = ("AllocateBuffer", "ConcatBitcast")
"""Custom calls that only name memory."""


@dataclass(frozen=True)
class Work:
    """Per device and run of the program."""

    hbm_bytes: int  # read from and written to HBM
    all_bytes: int  # the same with what stays beside the cores
    products: int  # floating-point operations of convolutions and matrix products


def work(program: Program, loops: bool = True) -> Work:
    """Sums over a program; the bodies of loops as often as they run, or once if not `loops`."""
    hbm = everything = products = 0
    for site in program.sites(loops):
        products += site.times * _products(program, site)
        if site.scheduled:
            for array, size in _moved(program, site):
                everything += site.times * size
                hbm += 0 if array.on_chip else site.times * size
    return Work(hbm, everything, products)


def _moved(program: Program, site: Site) -> list[tuple[Array, int]]:
    """Each array that an instruction reads or writes, and how many bytes of it."""
    instruction = site.instruction
    opcode = instruction.opcode
    if opcode in _NOTHING or instruction.attribute(r'custom_call_target="(\w+)"') in _NAMES_MEMORY:
        return []
    results = arrays(instruction.shape)
    if opcode.endswith("-start"):
        # What is written counts where the operation is done; a slice reads as much as it writes.
        read = [array for shape in program.operands(site) for array in arrays(shape)]
        written = results[len(read)] if opcode == "slice-start" and len(results) > len(read) else None
        return [(array, written.bytes if written else array.bytes) for array in read]
    if opcode.endswith("-done"):
        return [(array, array.bytes) for array in results]
    moved = [*zip(results, bytes_written(program, site), strict=True)]
    for position, shape in enumerate(program.operands(site)):
        part = bytes_read(program, site, position)
        moved += [(array, array.bytes if part is None else min(part, array.bytes)) for array in arrays(shape)]
    return moved


def _products(program: Program, site: Site) -> int:
    """2 × multiply-adds of a convolution or matrix product; those with padding or with the zeros of a dilation not."""
    instruction = site.instruction
    if instruction.opcode == "dot":
        factor = arrays(program.operands(site)[0])[0]
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        inner = math.prod(factor.dimensions[int(axis)] for axis in contracted.split(",") if axis)
        return 2 * inner * math.prod(arrays(instruction.shape)[0].dimensions)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if instruction.opcode != "convolution" or labels is None:
        return 0
    left, kernel = (arrays(shape)[0].dimensions for shape in program.operands(site)[:2])
    out = arrays(instruction.shape)[0].dimensions
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
"""What the text says of a window, and what holds where it does not."""


@functools.cache
def _valid_pairs(
    size: int, kernel: int, out: int, stride: int, padding: int, dilation: int, kernel_dilation: int
) -> int:
    """How many pairs of output and kernel position along one axis meet an element of the input."""
    pairs = 0
    for position in range(kernel):
        for output in range(out):
            place = output * stride + position * kernel_dilation - padding
            pairs += 0 <= place <= (size - 1) * dilation and place % dilation == 0
    return pairs
