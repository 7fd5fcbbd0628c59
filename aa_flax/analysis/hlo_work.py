"""Sums over the text of a compiled program: what it reads, writes and multiplies.

libtpu's own counts have three gaps, which these sums fill. They treat arrays in the memory beside the cores like those
in HBM, although only the latter are slow; they count the body of a loop once, however often it runs; and of a
conditional they count the largest branch. For GPUs there are no other counts than these sums. Of the stacks that a
loop's body reads or writes one slice of, only that slice counts. Workspaces, which cuDNN and cuBLAS use besides
operands and results, do not count, because it is not known how much of them is touched.
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
"""Prefixes of custom calls' targets in NVIDIA's libraries. Their last result may be a workspace, a row of bytes."""


@dataclass(frozen=True)
class Work:
    """What a program moves and multiplies, per device and run of the program."""

    hbm_bytes: int  # read from and written to HBM
    all_bytes: int  # the same, plus what stays in memory beside the cores
    whole_bytes: int  # as `all_bytes`, with all operands and results whole, also if only a part is used
    products: int  # floating-point operations of convolutions and matrix products
    products_by_precision: dict[str, int]  # the same by the precision that a GPU multiplies in


def work(program: Program, loops: bool = True, *, largest: bool = False, scope: str = "") -> Work:
    """Return the sums over a program; bodies of loops count as often as they run, or once if not `loops`.

    Of a conditional the smallest branch counts, or the `largest`. With a `scope` only instructions count that come from
    operations of JAX with that in their names, which have those of jitted functions and of `jax.named_scope` in them. A
    fusion has one name, of the last thing that it computes; copies that the compiler made may have none.
    """
    hbm = everything = whole = 0
    products: dict[str, int] = {}
    for site in program.sites(loops, largest=largest):
        if scope not in _operation(site):
            continue
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

    name: str  # the instruction's, or that of what a custom call runs
    operation: str  # JAX's operation that it comes from
    shapes: str  # of operands and results
    calls: int
    bytes: int  # of operands and results in all


def launches(program: Program) -> list[Launch]:
    """Return all that runs by itself, the most bytes first; an asynchronous copy or collective counts once."""
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
        author = instruction.attribute(r'\bname = "([^"]+)", num_stages')  # name of a Triton kernel
        return author or target.removeprefix("__gpu$")
    return instruction.name


def _operation(site: Site) -> str:
    return site.instruction.attribute(r'op_name="([^"]*)"') or ""


def _shapes(program: Program, site: Site) -> str:
    def written(shapes: list[str]) -> str:
        return ", ".join(f"{a.dtype}[{','.join(map(str, a.dimensions))}]" for shape in shapes for a in arrays(shape))

    return f"{written(program.operands(site))} -> {written([site.instruction.shape])}"


def _moved(program: Program, site: Site) -> list[tuple[Array, int]]:
    """Return each array that an instruction reads or writes, and how many bytes of it."""
    if not _runs(site):
        return []
    instruction = site.instruction
    opcode = instruction.opcode
    results = arrays(instruction.shape)
    if opcode.endswith("-start"):
        # Writes count at the "-done" instruction; a slice reads as much as it writes.
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
