"""Names of the axes of what attention runs over: a signal, a map or a volume."""

AXES: dict[int, tuple[str, ...]] = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""For each number of dimensions, its axes in the order of an array [b, *space, ...]."""


def table_names(dimensions: int) -> tuple[str, ...]:
    """Return the names of the relative tables, one for each axis in its order: "rel_length" of a signal."""
    return tuple(f"rel_{axis}" for axis in AXES[dimensions])


def letters(dimensions: int) -> str:
    """Return the axes as a shape has them: "l", "h, w" or "d, h, w"."""
    return ", ".join(axis[0] for axis in AXES[dimensions])


def sizes(space: tuple[int, ...]) -> str:
    """Return the sizes of a space in words, such as 3x5."""
    return "x".join(map(str, space))
