"""Bytes that instructions read or write of arrays that they touch only in part, such as the stacks that loops keep.

In the body of a loop `dynamic-update-slice` and `scatter` write into their first operand in place, and neither read nor
write the rest of it; `scatter` also reads what it adds to. Outside loops an instruction writes all of its result, and a
fusion reads only a part of an operand if it slices it itself.
"""

from collections.abc import Sequence

from aa_flax.analysis.hlo import Instruction, Program, Site, arrays, shape_bytes

READS_A_PART = ("slice", "dynamic-slice", "gather")
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Instructions that change a part of their first operand, and the position of the operand that they write there."""
Computation = dict[str, Instruction]


def bytes_read(program: Program, site: Site, position: int) -> int | None:
    """Return the bytes that an instruction reads of an operand that it reads in part; None if it reads the whole."""
    instruction = site.instruction
    if instruction.opcode in READS_A_PART:
        return shape_bytes(instruction.shape) if position == 0 else None
    if instruction.opcode in UPDATES and site.looped:
        return _added_to(instruction, program.operands(site)) if position == 0 else None
    if instruction.opcode == "fusion" and not site.looped:
        return _sliced_by(program, instruction, position)
    return _read_by(program, instruction, position) if instruction.opcode == "fusion" else None


def bytes_written(program: Program, site: Site) -> list[int]:
    """Return the bytes that an instruction writes of each array of its result."""
    instruction = site.instruction
    whole = [array.bytes for array in arrays(instruction.shape)]
    if not site.looped or instruction.opcode not in (*UPDATES, "fusion"):
        return whole
    if instruction.opcode in UPDATES:
        return [shape_bytes(program.operands(site)[UPDATES[instruction.opcode]])]
    inside = _inside(program, instruction)
    updates = _updates(program, inside, _root(inside))
    if len(updates) != len(whole):
        return whole
    return [all_of_it if part is None else part for part, all_of_it in zip(updates, whole, strict=True)]


def _added_to(update: Instruction, shapes: Sequence[str]) -> int:
    """Return the bytes that an update in place reads of what it changes: `scatter` adds, the other overwrites."""
    return shape_bytes(shapes[UPDATES["scatter"]]) if update.opcode == "scatter" else 0


def _inside(program: Program, fusion: Instruction) -> Computation:
    return program.computations[dict(fusion.called)["calls"]]


def _root(computation: Computation) -> Instruction:
    """Return the root, which comes last, because instructions follow what they use."""
    return next(reversed(computation.values()))


def _name(operand: str) -> str:
    return operand.split()[-1].lstrip("%")


def _updates(program: Program, computation: Computation, root: Instruction) -> list[int | None]:
    """Return for each array that a fusion returns by `root` the bytes of the slice that is updated, or None."""
    operands = [computation[_name(operand)] for operand in root.operands if _name(operand) in computation]
    if root.opcode == "tuple":
        return [part for operand in operands for part in _updates(program, computation, operand)]
    if root.opcode == "bitcast":
        return _updates(program, computation, operands[0])
    if root.opcode == "fusion":
        inside = _inside(program, root)
        return _updates(program, inside, _root(inside))
    if root.opcode in UPDATES and _is_parameter(computation, operands[0]):
        return [shape_bytes(operands[UPDATES[root.opcode]].shape)]
    return [None] * len(arrays(root.shape))


def _is_parameter(computation: Computation, instruction: Instruction) -> bool:
    while instruction.opcode == "bitcast":
        instruction = computation[_name(instruction.operands[0])]
    return instruction.opcode == "parameter"


def _sliced_by(program: Program, fusion: Instruction, position: int) -> int | None:
    """Return the bytes of an operand that a fusion reads if it reads only slices of it, else None."""
    inside = _inside(program, fusion)
    names = [name for name, each in inside.items() if each.opcode == "parameter" and each.operands == (str(position),)]
    users = [each for each in inside.values() if names and any(_name(operand) == names[0] for operand in each.operands)]
    if users and all(user.opcode in READS_A_PART for user in users):
        return sum(shape_bytes(user.shape) for user in users)
    return None


def _read_by(program: Program, fusion: Instruction, position: int) -> int | None:
    inside = _inside(program, fusion)
    names = [name for name, each in inside.items() if each.opcode == "parameter" and each.operands == (str(position),)]
    return _read(program, inside, names[0]) if names else None


def _read(program: Program, computation: Computation, name: str) -> int | None:
    """Return the bytes of the array `name` that a fused computation reads; None if an instruction reads the whole."""
    parts: list[int] = []
    for user in computation.values():
        for position, operand in enumerate(user.operands):
            if user.opcode == "parameter" or _name(operand) != name:
                continue
            part: int | None = None
            if user.opcode in READS_A_PART and position == 0:
                part = shape_bytes(user.shape)
            elif user.opcode in UPDATES and position == 0 and _leaves(computation, user):
                part = _added_to(user, [computation[_name(operand)].shape for operand in user.operands])
            elif user.opcode == "bitcast":
                part = _read(program, computation, user.name)
            elif user.opcode == "fusion":
                part = _read_by(program, user, position)
            if part is None:
                return None
            parts.append(part)
    return sum(parts) if parts else None


def _leaves(computation: Computation, instruction: Instruction) -> bool:
    """Return whether an update is what the fusion returns, so that it happens in place."""
    root = _root(computation)
    if instruction is root:
        return True
    users = [
        each
        for each in computation.values()
        if each.opcode != "parameter" and any(_name(operand) == instruction.name for operand in each.operands)
    ]
    return bool(users) and all(
        (each is root and each.opcode == "tuple") or (each.opcode == "bitcast" and _leaves(computation, each))
        for each in users
    )
