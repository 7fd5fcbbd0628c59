"""What a compiled program reads, writes and multiplies, summed over its text.

libtpu's own counts have three gaps, which these sums fill: they take arrays that stay in the memory beside the cores
like those in HBM, although only the latter are slow, the body of a loop once, however often it runs, and of a
conditional the largest branch. For GPUs there are no counts but these. Of the stacks from which a loop's body takes one
slice, and into which it writes one, only that slice counts. What cuDNN and cuBLAS take beside operands and results, a
workspace, does not count: how much of it they touch is theirs to know.
"""

import re
from dataclasses import dataclass

from aa_flax.analysis.hlo import Array, Program, Site, arrays
from aa_flax.analysis.hlo_products import precision_of, products_of
from aa_flax.analysis.hlo_slices import bytes_read, bytes_written

_NOTHING = frozenset(
    {"parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"}
    | {"partition-id", "replica-id", "call", "while", "conditional", "async-start", "async-update", "async-done"}
)
"""Instructions that move nothing themselves."""

_NAMES_MEMORY = ("AllocateBuffer", "ConcatBitcast")
"""Custom calls that only name memory."""

_LIBRARIES = ("__cudnn$", "__cublas$")
"""How the targets of custom calls of NVIDIA's libraries begin. Their last result may be a workspace, a row of bytes."""


@dataclass(frozen=True)
class Work:
    """Per device and run of the program."""

    hbm_bytes: int  # read from and written to HBM
    all_bytes: int  # the same with what stays beside the cores
    whole_bytes: int  # the same with every operand and result as a whole, also where only a part is taken
    products: int  # floating-point operations of convolutions and matrix products
    products_by_precision: dict[str, int]  # as a GPU multiplies them


def work(program: Program, loops: bool = True, *, largest: bool = False) -> Work:
    """Sums over a program; the bodies of loops as often as they run, or once if not `loops`.

    Of a conditional the smallest branch, or the `largest`.
    """
    hbm = everything = whole = 0
    products: dict[str, int] = {}
    for site in program.sites(loops, largest=largest):
        if found := site.times * products_of(program, site):
            precision = precision_of(program, site)
            products[precision] = products.get(precision, 0) + found
        if site.scheduled:
            for array, size in _moved(program, site):
                everything += site.times * size
                hbm += 0 if array.on_chip else site.times * size
                whole += site.times * array.bytes
    return Work(hbm, everything, whole, sum(products.values()), products)


@dataclass(frozen=True)
class Launch:
    """All runs of one kernel on arrays of the same shapes, per device and run of the program."""

    name: str  # as the program has it, or what a custom call runs
    operation: str  # of JAX, that it stems from
    shapes: str  # of operands and results
    calls: int
    bytes: int  # of operands and results in all


def launches(program: Program) -> list[Launch]:
    """What runs by itself, the most bytes first; a copy or collective that is started and awaited counts once."""
    found: dict[tuple[str, str], Launch] = {}
    for site in program.sites():
        instruction = site.instruction
        if not site.scheduled or not _runs(site):
            continue
        awaited = instruction.opcode.endswith("-done")
        size = site.times * sum(size for _, size in _moved(program, site))
        name = re.sub(r"(-start|-done)?[.\d]*$", "", _kernel_name(site))
        shapes = "" if awaited or instruction.opcode.endswith("-start") else _shapes(program, site)
        former = found.get((name, shapes), Launch(name, _operation(site), shapes, 0, 0))
        calls = former.calls + (0 if awaited else site.times)
        found[name, shapes] = Launch(name, former.operation, shapes, calls, former.bytes + size)
    return sorted(found.values(), key=lambda launch: -launch.bytes)


def _runs(site: Site) -> bool:
    return site.instruction.opcode not in _NOTHING and site.instruction.custom_call_target not in _NAMES_MEMORY


def _kernel_name(site: Site) -> str:
    instruction = site.instruction
    if target := instruction.custom_call_target:
        author = instruction.attribute(r'\bname = "([^"]+)", num_stages')  # of a kernel in Triton
        return author or target.removeprefix("__gpu$")
    return instruction.name


def _operation(site: Site) -> str:
    return site.instruction.attribute(r'op_name="([^"]*)"') or ""


def _shapes(program: Program, site: Site) -> str:
    def written(shapes: list[str]) -> str:
        return ", ".join(f"{a.dtype}[{','.join(map(str, a.dimensions))}]" for shape in shapes for a in arrays(shape))

    return f"{written(program.operands(site))} -> {written([site.instruction.shape])}"


def _moved(program: Program, site: Site) -> list[tuple[Array, int]]:
    """Each array that an instruction reads or writes, and how many bytes of it."""
    if not _runs(site):
        return []
    instruction = site.instruction
    opcode = instruction.opcode
    results = arrays(instruction.shape)
    if opcode.endswith("-start"):
        # What is written counts where the operation is done; a slice reads as much as it writes.
        read = [array for shape in program.operands(site) for array in arrays(shape)]
        written = results[len(read)] if opcode == "slice-start" and len(results) > len(read) else None
        return [(array, written.bytes if written else array.bytes) for array in read]
    if opcode.endswith("-done"):
        return [(array, array.bytes) for array in results]
    moved = [*zip(results, bytes_written(program, site), strict=True)]
    if instruction.custom_call_target.startswith(_LIBRARIES) and _is_workspace(results[-1]):
        moved.pop()
    for position, shape in enumerate(program.operands(site)):
        part = bytes_read(program, site, position)
        moved += [(array, array.bytes if part is None else min(part, array.bytes)) for array in arrays(shape)]
    return moved


def _is_workspace(array: Array) -> bool:
    return array.dtype in ("u8", "s8") and len(array.dimensions) == 1
