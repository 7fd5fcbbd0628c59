"""Reading the text of a compiled program (XLA's HLO): computations, instructions, and the bytes of their arrays.

It reads only as much of the grammar as counting needs. Bytes are those in the device's memory, including the padding of
tiled layouts: bf16[64,20]{1,0:T(8,128)(2,1)} takes 64 × 128 × 2 bytes.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)="
    r"(?:\{([^{}]*)\}|%?([\w.\-]+))"
)


@dataclass(frozen=True)
class Array:
    """One array of a shape: type, dimensions and layout, which is "" where the text has none."""

    dtype: str
    dimensions: tuple[int, ...]
    layout: str = ""

    @property
    def on_chip(self) -> bool:
        """Return whether the array lies in a memory beside the cores and not in the main one, HBM, which is space 0."""
        return re.search(r"S\((\d+)\)", self.layout) is not None

    @property
    def bytes(self) -> int:
        """Return the bytes in memory, padding included, by XLA's rule: tiles apply in turn from major to minor."""
        order, _, rest = self.layout.partition(":")
        minor_to_major = [int(axis) for axis in order.split(",") if axis]
        sizes = [self.dimensions[axis] for axis in reversed(minor_to_major)] or list(self.dimensions)
        for tile in _tiles(rest):
            sizes = _tiled(sizes, tile)
        return math.ceil(math.prod(sizes) * self._bits(rest) / 8)

    def _bits(self, properties: str) -> int:
        """Return the bits of one element; narrow integers fill a byte unless the layout packs them."""
        if packed := re.search(r"E\((\d+)\)", properties):
            return int(packed[1])
        if self.dtype in ("token", "opaque"):
            return 0
        width = re.match(r"[a-z]+(\d+)", self.dtype)
        return max(8, int(width[1])) if width else 8  # pred has no width


def _tiles(properties: str) -> list[list[str]]:
    found = re.search(r"T((?:\([^()]*\))+)", properties)
    return [tile.split(",") for tile in re.findall(r"\(([^()]*)\)", found[1])] if found else []


def _tiled(sizes: list[int], tile: list[str]) -> list[int]:
    """Return dimensions, major to minor, after they are cut into tiles: the numbers of tiles, then the tile."""
    sizes = [1] * (len(tile) - len(sizes)) + sizes
    kept, cut = sizes[: len(sizes) - len(tile)], sizes[len(sizes) - len(tile) :]
    merged: list[int] = []
    carried = 1
    for size, side in zip(cut, tile, strict=True):
        carried *= size
        if side != "*":  # "*" joins a dimension with the next
            merged.append(carried)
            carried = 1
    sides = [int(side) for side in tile if side != "*"]
    return [*kept, *(math.ceil(size / side) for size, side in zip(merged, sides, strict=True)), *sides]


def arrays(shape: str) -> list[Array]:
    """Return all arrays in the text of a shape, those of a tuple in order."""
    return [
        Array(dtype, tuple(int(re.sub(r"\D", "", size)) for size in sizes.split(",") if size), layout or "")
        for dtype, sizes, layout in _ARRAY.findall(shape)
    ]


def shape_bytes(shape: str) -> int:
    """Return the bytes of all arrays in the text of a shape."""
    return sum(array.bytes for array in arrays(shape))


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `operands` are as in the text, and `attributes` is the text after them."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """Return the first group of a regular expression in the attributes, or None if it is not found."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def custom_call_target(self) -> str:
        """Return the target that a custom call runs; "" for other instructions."""
        return self.attribute(r'custom_call_target="([^"]*)"') or ""

    @property
    def called(self) -> list[tuple[str, str]]:
        """Return (role, computation) of every computation that this instruction names."""
        return [
            (role, name.strip().lstrip("%"))
            for role, several, one in _CALLED.findall(self.attributes)
            for name in (several.split(",") if several else [one])
        ]

    @functools.cached_property
    def cost_estimate(self) -> dict[str, int]:
        """Return the estimate of a Mosaic kernel's author, flops and bytes_accessed; {} if there is none."""
        found = re.search(r'"cost_estimate":(\{[^{}]*\})', self.attributes)
        return {name: int(float(value)) for name, value in json.loads(found[1]).items()} if found else {}


@dataclass(frozen=True)
class Site:
    """An instruction with the computation that it runs in, and how often it runs in one call of the program.

    `scheduled` means that it runs by itself, with operands and results in memory, unlike the instructions of a fusion.
    `looped` means that it is in the body of a loop.
    """

    instruction: Instruction
    computation: str
    times: int
    scheduled: bool
    looped: bool = False


class Program:
    """A compiled program, read from its text."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (instruction := _parse(line)):
                current[instruction.name] = _in_turn(instruction)
        if not self.entry:
            raise ValueError("the text is not a compiled program: it has no ENTRY computation")

    def sites(self, loops: bool = True, *, largest: bool = False) -> Iterator[Site]:
        """Yield every instruction that runs; bodies of loops count as often as they run, or once if not `loops`.

        Of a conditional the smallest branch counts, or the `largest`. Loops of unknown length, whose `trips` is None,
        count once in either case.
        """
        for (computation, scheduled, looped), times in self._runs(loops, largest).items():
            for instruction in self.computations[computation].values():
                yield Site(instruction, computation, times, scheduled, looped)

    def operands(self, site: Site) -> list[str]:
        """Return the shape of each operand: some texts have it before the name, others on the line that defines it."""
        defined = self.computations[site.computation]
        return [
            operand if "[" in operand else defined[operand.strip().lstrip("%")].shape
            for operand in site.instruction.operands
        ]

    def trips(self, loop: Instruction) -> int | None:
        """Return how often a while loop runs; None if neither the compiler nor a condition `counter < constant` says.

        Counters are taken to start at 0 and rise by 1, as those of `jax.lax.scan` do.
        """
        if known := loop.attribute(r'"known_trip_count":\{"n":"?(\d+)'):
            return int(known)
        condition = self.computations.get(dict(loop.called).get("condition", ""), {})
        compares = [each for each in condition.values() if each.opcode == "compare"]
        if len(compares) != 1 or compares[0].attribute(r"direction=(LT)") is None:
            return None
        limit = condition.get(compares[0].operands[-1].split()[-1].lstrip("%"))
        return int(limit.operands[0]) if limit and limit.opcode == "constant" else None

    def _runs(self, loops: bool, largest: bool) -> dict[tuple[str, bool, bool], int]:
        """Return how often each (computation, scheduled, looped), as in `Site`, runs, by all paths that lead to it."""
        runs: dict[tuple[str, bool, bool], int] = {}

        def visit(computation: str, scheduled: bool, times: int, looped: bool) -> None:
            runs[computation, scheduled, looped] = runs.get((computation, scheduled, looped), 0) + times
            for instruction in self.computations[computation].values():
                if instruction.opcode.endswith(("-done", "-update")):
                    continue  # it names the computation that its -start runs
                inner = scheduled and instruction.opcode in ("call", "while", "conditional", "async-start")
                for role, name in self._entered(instruction, largest):
                    again = (self.trips(instruction) or 1) if loops and role == "body" else 1
                    if name in self.computations:
                        visit(name, inner, times * again, looped or role == "body")

        visit(self.entry, True, 1, False)
        return runs

    def _entered(self, instruction: Instruction, largest: bool) -> list[tuple[str, str]]:
        """Return roles and names of the computations that an instruction runs, only one branch of a conditional.

        Which branch is taken is known only when the program runs. Counts take the smallest, because they say what a
        run needs at least. An example is batch norm's second pass on TPUs, for statistics far from those expected.
        """
        if instruction.opcode != "conditional":
            return list(instruction.called)

        def size(name: str) -> int:
            made = self.computations.get(name, {}).values()
            return sum(shape_bytes(each.shape) for each in made if each.opcode not in _MAKES_NOTHING)

        choose = max if largest else min
        return [choose(instruction.called, key=lambda called: size(called[1]))]


_MAKES_NOTHING = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")


def _parse(line: str) -> Instruction | None:
    start = _INSTRUCTION.match(line)
    if not start:
        return None
    begin = start.end()
    end = (
        _closing(line, begin) + 1 if line[begin] == "(" else getattr(_ARRAY.match(line, begin), "end", lambda: begin)()
    )
    opcode = _OPCODE.match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    return Instruction(
        name=start[1],
        shape=line[begin:end],
        opcode=opcode[1],
        operands=tuple(_split(line[opcode.end() : close])),
        attributes=line[close + 1 :],
    )


def _in_turn(instruction: Instruction) -> Instruction:
    """Return an instruction with an asynchronous fusion, which XLA for GPUs starts and awaits, as an ordinary one."""
    if instruction.opcode == "fusion-start":
        _, result, *_ = _split(instruction.shape[1:-1])  # operands, result, context
        return dataclasses.replace(instruction, opcode="fusion", shape=result)
    if instruction.opcode == "fusion-done":
        return dataclasses.replace(instruction, opcode="bitcast")
    return instruction


def _closing(text: str, opening: int) -> int:
    """Return the position at which the parenthesis that opens at `opening` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _split(text: str) -> Iterator[str]:
    """Yield the parts between the commas that are not inside brackets."""
    text = re.sub(r"/\*.*?\*/", "", text)
    depth, begin = 0, 0
    for match in re.finditer(r"[(){}\[\],]", text):
        if match[0] == ",":
            if not depth:
                yield text[begin : match.start()].strip()
                begin = match.end()
        else:
            depth += 1 if match[0] in "({[" else -1
    if text[begin:].strip():
        yield text[begin:].strip()
