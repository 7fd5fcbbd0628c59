"""Reading the text of a compiled program (XLA's HLO): computations, instructions, and the bytes of their arrays.

Only as much of the grammar as counting needs. Bytes are those in the device's memory, with the padding that tiled
layouts bring: bf16[64,20]{1,0:T(8,128)(2,1)} takes 64 × 128 × 2 bytes.
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
    """One array of a shape: type, dimensions and layout, the last "" where the text has none."""

    dtype: str
    dimensions: tuple[int, ...]
    layout: str = ""

    @property
    def on_chip(self) -> bool:
        """Whether it lies in a memory beside the cores instead of the main one, HBM, which is space 0."""
        return re.search(r"S\((\d+)\)", self.layout) is not None

    @property
    def bytes(self) -> int:
        """Bytes in memory, padding included; XLA's rule: tiles are applied in turn to the dimensions major to minor."""
        order, _, rest = self.layout.partition(":")
        minor_to_major = [int(axis) for axis in order.split(",") if axis]
        sizes = [self.dimensions[axis] for axis in reversed(minor_to_major)] or list(self.dimensions)
        for tile in _tiles(rest):
            sizes = _tiled(sizes, tile)
        return math.ceil(math.prod(sizes) * self._bits(rest) / 8)

    def _bits(self, properties: str) -> int:
        """Of one element; narrow integers fill a byte unless the layout packs them."""
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
    """Dimensions, major to minor, once cut into tiles: the counts of tiles, then the tile."""
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
    """All arrays in the text of a shape, those of a tuple in turn."""
    return [
        Array(dtype, tuple(int(re.sub(r"\D", "", size)) for size in sizes.split(",") if size), layout or "")
        for dtype, sizes, layout in _ARRAY.findall(shape)
    ]


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays in the text of a shape."""
    return sum(array.bytes for array in arrays(shape))


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `operands` as they stand in the text, `attributes` what follows them."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """First group of a regular expression in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def custom_call_target(self) -> str:
        """What a custom call runs; "" of other instructions."""
        return self.attribute(r'custom_call_target="([^"]*)"') or ""

    @property
    def called(self) -> list[tuple[str, str]]:
        """(role, computation) of every computation that this instruction names."""
        return [
            (role, name.strip().lstrip("%"))
            for role, several, one in _CALLED.findall(self.attributes)
            for name in (several.split(",") if several else [one])
        ]

    @functools.cached_property
    def cost_estimate(self) -> dict[str, int]:
        """What the author of a Mosaic kernel said that it costs: flops, bytes_accessed; {} if nothing."""
        found = re.search(r'"cost_estimate":(\{[^{}]*\})', self.attributes)
        return {name: int(float(value)) for name, value in json.loads(found[1]).items()} if found else {}


@dataclass(frozen=True)
class Site:
    """An instruction where it runs: in which computation, and how often in one call of the program.

    `scheduled` says that it runs by itself, with operands and results in memory; the instructions of a fusion do not.
    `looped` says that it lies in the body of a loop.
    """

    instruction: Instruction
    computation: str
    times: int
    scheduled: bool
    looped: bool = False


class Program:
    """A compiled program as text."""

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
        """Every instruction that runs; the bodies of loops as often as they run, or once if not `loops`.

        Of a conditional the smallest branch, or the `largest`.

        Loops of unknown length count once either way: `trips` is None for them.
        """
        for (computation, scheduled, looped), times in self._runs(loops, largest).items():
            for instruction in self.computations[computation].values():
                yield Site(instruction, computation, times, scheduled, looped)

    def operands(self, site: Site) -> list[str]:
        """The shape of each operand: before its name in some texts, on the line that defines it in others."""
        defined = self.computations[site.computation]
        return [
            operand if "[" in operand else defined[operand.strip().lstrip("%")].shape
            for operand in site.instruction.operands
        ]

    def trips(self, loop: Instruction) -> int | None:
        """How often a while loop runs; None if neither the compiler says nor the condition is `counter < constant`.

        Counters start at 0 and go up by 1, as those of `jax.lax.scan` do.
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
        """(computation, scheduled, looped), as `Site` has them, to how often it runs, by every way that leads to it."""
        runs: dict[tuple[str, bool, bool], int] = {}

        def visit(computation: str, scheduled: bool, times: int, looped: bool) -> None:
            runs[computation, scheduled, looped] = runs.get((computation, scheduled, looped), 0) + times
            for instruction in self.computations[computation].values():
                if instruction.opcode.endswith(("-done", "-update")):
                    continue  # names the computation that its -start runs
                inner = scheduled and instruction.opcode in ("call", "while", "conditional", "async-start")
                for role, name in self._entered(instruction, largest):
                    again = (self.trips(instruction) or 1) if loops and role == "body" else 1
                    if name in self.computations:
                        visit(name, inner, times * again, looped or role == "body")

        visit(self.entry, True, 1, False)
        return runs

    def _entered(self, instruction: Instruction, largest: bool) -> list[tuple[str, str]]:
        """Roles and names of the computations that an instruction runs: of a conditional's branches one.

        Which one is taken only a run knows. Counts take the smallest, because they stand for what a run needs at least;
        batch norm's second pass on TPUs, for one, is for statistics far from those expected.
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
    """A fusion that runs beside others, as XLA for GPUs starts and awaits it, as one that is awaited at once."""
    if instruction.opcode == "fusion-start":
        _, result, *_ = _split(instruction.shape[1:-1])  # operands, result, context
        return dataclasses.replace(instruction, opcode="fusion", shape=result)
    if instruction.opcode == "fusion-done":
        return dataclasses.replace(instruction, opcode="bitcast")
    return instruction


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _split(text: str) -> Iterator[str]:
    """Parts between the commas that lie in no bracket."""
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
