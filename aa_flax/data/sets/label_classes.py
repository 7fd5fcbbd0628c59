"""The classes of label maps: which value, or colour, of a map stands for which class.

A folder of label maps may have one of these files; those of one's own stand in for ADE20k's:

    classes.txt          a line "name" or "name red green blue" for each value of the maps, from 0 on
    classes.json         a list with a name, or {"name": name, "color": [red, green, blue]}, for each value
    objectInfo150.txt    ADE20k's own table of its classes, which begin at 1; its 0 is no class

A line "-", or in JSON null, is a value of no class: its pixels are ignored, and classes are numbered without it. So a
first line "-" is what others call `reduce_zero_label`. The value 255 is never a class.

Lines of classes.txt that are nearly of its form are errors: comments, numbers before the name, colours with commas.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from aa_flax.data.errors import DataError
from aa_flax.data.label_maps import IGNORED, MOST_CLASSES
from aa_flax.literal import quoted

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
_NO_CLASS = "-"
_LINE = re.compile(r"(.*?)(?:\s+(\d+)\s+(\d+)\s+(\d+))?")
_NUMBERED = re.compile(r"#.*|\d+[\s,;:].*")
_COLORED = re.compile(r".*(?:[\s,;]+[-+]?\d[\d.]*){2,}[\s,;]*")
"""Names of a line of another form: with a comment or a number before, or with numbers that are no colour behind."""


@dataclass(frozen=True)
class _Value:
    """A value of the maps: the name of its class, None of no class, and its colour, None if nothing says it."""

    name: str | None
    color: Color | None


class LabelClasses:
    """What each value of a folder's label maps stands for.

    Attributes:
        path: the file that says it; None if there is none.
        names: of the classes, in the order of the labels.
        colors: of the classes; None where nothing says it.
        labels: the label of each value from 0 on, `IGNORED` for a value of no class.
        of_color: the label of each colour, `IGNORED` for one of no class.

    Raises:
        DataError: a name is empty or given twice, or there are more classes or values than maps of 8 bits can have.
    """

    def __init__(self, values: Sequence[_Value], path: Path | None = None):
        self.path = path
        classes = [value for value in values if value.name is not None]
        self.names = [str(value.name) for value in classes]
        self.colors = [value.color for value in classes]
        numbers = iter(range(len(classes)))
        self.labels = [IGNORED if value.name is None else next(numbers) for value in values]
        self.of_color: dict[tuple[int, ...], int] = {}
        self._check(values)

    def _check(self, values: Sequence[_Value]) -> None:
        if not self.names or len(self.names) > MOST_CLASSES or len(values) > IGNORED + 1:
            raise DataError(
                f"{self.path}: {len(self.names)} classes and {len(values)} values of maps, expected 1 to "
                f"{MOST_CLASSES} classes and at most {IGNORED + 1} values"
            )
        if empty := [str(number) for number, value in enumerate(values) if value.name is not None and not value.name]:
            raise DataError(f"{self.path}: the name of value {', '.join(empty)} is empty ({_NO_CLASS!r} is no class)")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise DataError(f"{self.path}: two values have the name {quoted(twice)}; each class needs one of its own")
        if len(values) > IGNORED and self.labels[IGNORED] != IGNORED:
            raise DataError(f"{self.path}: the value {IGNORED} is a class, and it always stands for none")
        for value, label in zip(values, self.labels, strict=True):
            if value.color and max(value.color) > 255:
                raise DataError(f"{self.path}: {value.color} is no colour, expected three numbers of 0 to 255")
            if value.color and self.of_color.setdefault(value.color, label) != label:
                raise DataError(f"{self.path}: two classes have the colour {value.color}")

    @property
    def have_colors(self) -> bool:
        """Return whether every class has a colour, so that maps of colours can be read."""
        return None not in self.colors

    def of_values(self, values: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the labels of a map of values.

        Raises:
            ValueError: a value stands for nothing; the message has it.
        """
        counts = np.bincount(values.reshape(-1), minlength=IGNORED + 1)
        wrong = np.flatnonzero(counts[len(self.labels) : IGNORED]) + len(self.labels)
        if len(wrong):
            expected = f"0 to {len(self.labels) - 1}, or {IGNORED} for no class"
            raise ValueError(f"{counts[wrong[0]]:,} pixels have the value {wrong[0]}, expected {expected}")
        table = np.full(IGNORED + 1, IGNORED, np.uint8)
        table[: len(self.labels)] = self.labels
        return table[values]

    def of_colors(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        """Return the labels of a map of colours.

        Raises:
            ValueError: a colour stands for nothing; the message has it.
        """
        codes = _codes(pixels)
        known = np.array(sorted((int(_codes(np.array(color, np.uint8))), k) for color, k in self.of_color.items()))
        places = np.searchsorted(known[:, 0], codes).clip(max=len(known) - 1)
        wrong = known[places, 0] != codes
        if wrong.any():
            color = tuple(pixels[wrong][0].tolist())
            raise ValueError(f"{wrong.sum():,} pixels have colours of no class, such as {color}")
        return known[places, 1].astype(np.uint8)


def _codes(pixels: UInt8[np.ndarray, "*hw 3"]) -> Any:
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return (red << 16) + (green << 8) + blue


def numbered(count: int) -> LabelClasses:
    """Return classes that have nothing but their numbers as names."""
    return LabelClasses([_Value(f"class {number}", None) for number in range(count)])


def read_classes(folder: Path) -> LabelClasses | None:
    """Return what a folder's own file says of its classes, None if there is none.

    Raises:
        DataError: it cannot be read, or does not have the form of this module's docstring; or there are two.
    """
    own = [name for name in ("classes.txt", "classes.json") if (folder / name).is_file()]
    if len(own) > 1:
        raise DataError(f"{folder}: both {' and '.join(own)} name the classes; remove one of them")
    for name, read in (("classes.txt", _lines), ("classes.json", _json), ("objectInfo150.txt", _ade20k)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            return LabelClasses(read(path.read_text("utf-8-sig", "surrogateescape")), path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
    return None


def _lines(text: str) -> list[_Value]:
    return [_of_line(number, line.strip()) for number, line in enumerate(text.rstrip().split("\n"), 1)]


def _of_line(number: int, line: str) -> _Value:
    found = _LINE.fullmatch(line)
    assert found is not None
    name, *color = found.groups()
    last_number = color[0] and re.search(r"[\s,;][-+]?\d+$", name)
    if _NUMBERED.fullmatch(name) or _COLORED.fullmatch(name) or last_number:
        raise ValueError(
            f'line {number} is {line!r:.80}, expected "name" or "name red green blue", without comments or numbers of '
            "classes (a file classes.json may have any names)"
        )
    red, green, blue = (int(number) for number in color) if color[0] else (0, 0, 0)
    return _Value(None if name == _NO_CLASS else name, (red, green, blue) if color[0] else None)


def _json(text: str) -> list[_Value]:
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError("expected a list with a name, or an object with name and color, for each value of the maps")
    return [_of_item(number, each if isinstance(each, dict) else {"name": each}) for number, each in enumerate(values)]


def _of_item(number: int, item: dict[str, Any]) -> _Value:
    name, color = item.get("name"), item.get("color")
    whole = color is None or (isinstance(color, list) and len(color) == 3 and all(type(each) is int for each in color))
    if not (name is None or isinstance(name, str)) or not whole or (color and min(color) < 0):
        raise ValueError(f"item {number} is {item!r:.80}, expected a name and a color of three numbers, 0 to 255")
    return _Value(None if name is None else name.strip(), tuple(color) if color else None)


def _ade20k(text: str) -> list[_Value]:
    rows = [line.split("\t") for line in text.rstrip().split("\n")[1:]]
    if (
        not rows
        or any(len(row) < 2 for row in rows)
        or [row[0].strip() for row in rows] != [str(number) for number in range(1, len(rows) + 1)]
    ):
        raise ValueError("expected a line of headings, and lines of the numbers 1, 2, 3 ... with tabs before the name")
    synonyms = [row[-1].strip() for row in rows]
    first = [name.split(",")[0].strip() for name in synonyms]
    names = first if len({*first}) == len(first) else synonyms
    return [_Value(None, None), *(_Value(name, None) for name in names)]
