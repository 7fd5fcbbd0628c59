"""Conversion of Python values and of words of a command line to the types of the fields of options.

A type is bool, int, float, str, None, a `Literal`, `tuple[T, ...]`, a union of these, or a callable type (a protocol,
`Callable[...]`), whose values only Python can give. Error messages begin with "must be"; callers put the name of the
field before them.
"""

import ast
import dataclasses
import math
from numbers import Integral, Rational, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def field_types(schema: type) -> dict[str, Any]:
    """Return the type of every field that a dataclass's constructor takes, by name, in the fields' order."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


def as_type(kind: Any, value: Any, form: str = "of type ") -> Any:
    """Return `value` as one of type `kind`.

    A whole number is accepted for float and a list for tuple; NumPy's numbers become Python's. Nothing else is
    converted.

    Args:
        kind: the type.
        value: the value, from Python.
        form: the words before the name of the type in an error message.

    Raises:
        TypeError: the value is of another type.
        ValueError: the value is none of those that a `Literal` accepts, or a number that is not finite.
    """
    if _is_union(kind):
        return _as_one_of(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        of_a_type = type(value) in {type(argument) for argument in arguments}
        if not of_a_type or value not in arguments:
            words = f"must be one of {', '.join(map(repr, arguments))}, got {value!r}"
            raise ValueError(words) if of_a_type else TypeError(words)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a tuple, got {value!r}")
        return tuple(as_type(arguments[0], item, "a tuple of ") for item in value)
    if _is_callable(kind):
        if not callable(value):
            raise TypeError(f"must be {described(kind)}, got {value!r}")
        return value
    number = not isinstance(value, bool)
    if kind is int and isinstance(value, Integral) and number:
        return int(value)
    if kind is float and isinstance(value, Real) and number:
        if not math.isfinite(value):
            raise ValueError(f"must be finite, got {value!r}")
        if isinstance(value, Rational | float):
            return float(value)
        return float(str(value))  # a number of NumPy, as it was written: 0.29 and not 0.28999999
    if not isinstance(value, kind) or kind in (int, float):
        raise TypeError(f"must be {form}{kind.__name__}, got {value!r}")
    return value


def height_and_width(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width) in Python's numbers, from these two or from one number for both.

    Raises:
        ValueError: `value`, whose name the message begins with, is anything else or below 1.
    """
    try:
        side = as_type(int | tuple[int, ...], value)
    except (TypeError, ValueError):
        side = ()
    sides = (side, side) if isinstance(side, int) else side
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"{name} must be a whole number or (height, width), at least 1, got {value!r}")
    return sides


def sides(name: str, value: Any, dimensions: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a signal, an image or a volume in Python's numbers; one number is a square image's.

    Args:
        name: of the value, for the message.
        value: as many whole numbers as the space has dimensions.
        dimensions: how many these may be, or several numbers of which one must be.

    Raises:
        ValueError: `value` is anything else or below 1.
    """
    accepted = (dimensions,) if isinstance(dimensions, int) else dimensions
    if 2 in accepted and (accepted == (2,) or not isinstance(value, tuple | list) or len(value) == 2):
        return height_and_width(name, value)
    try:
        given = as_type(tuple[int, ...], value)
    except (TypeError, ValueError):
        given = ()
    if len(given) not in accepted or min(given) < 1:
        shapes = {1: "(length,)", 2: "(height, width)", 3: "(depth, height, width)"}
        words = " or ".join(shapes[each] for each in accepted)
        raise ValueError(f"{name} must be {words}, at least 1, got {value!r}")
    return given


def parse(kind: Any, text: str) -> Any:
    """Return the value of type `kind` that a word of a command line stands for.

    A bool is written as true or false, in upper or lower case; None as none; a tuple as (2, 1), [2, 1] or 2,1. Strings
    may be quoted.

    Raises:
        ValueError: the word stands for no value of that type.
    """
    if _is_union(kind):
        for member in sorted(get_args(kind), key=lambda member: member is str):  # str comes last: it accepts any word
            try:
                return parse(member, text)
            except ValueError:
                continue
        raise ValueError(f"must be {_worded(kind)}, got {text!r}")
    origin, word = get_origin(kind), text.strip()
    if kind is bool and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if kind is NoneType and word.lower() == "none":
        return None
    if kind is str:
        return _unquoted(word)
    if origin is Literal:
        for accepted in get_args(kind):
            if _unquoted(word) == str(accepted):
                return accepted
    try:
        if origin is tuple:
            items = ast.literal_eval(word if word[:1] in ("(", "[") else f"({word},)")
            return as_type(kind, items if isinstance(items, list | tuple) else (items,))
        if kind in (int, float):
            return as_type(kind, kind(word))
    except (TypeError, ValueError, SyntaxError):
        pass
    if _is_callable(kind):
        raise ValueError(f"must be {described(kind)}, which only Python can give, got {text!r}")
    raise ValueError(f"must be {_worded(kind)}, got {text!r}")


def _worded(kind: Any) -> str:
    """Return the words for a type, and for tuples how they are written on a command line."""
    members = get_args(kind) if _is_union(kind) else (kind,)
    items = [get_args(member)[0] for member in members if get_origin(member) is tuple]
    example = {int: "2,1", float: "0.5,1", str: "'a','b'"}.get(items[0], "") if items else ""
    return described(kind) + (f", written {example} or ({example})" if example else "")


def guessed(text: str) -> Any:
    """Return what a word of a command line stands for if its type is not known: a bool, a Python literal, or itself."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return text


def described(kind: Any) -> str:
    """Return the words for a type that follow "must be" in an error message."""
    if _is_union(kind):
        members = get_args(kind)
        callables = [member for member in members if _is_callable(member)]
        words: list[str] = []
        for member in members:
            if member not in callables[1:]:  # a protocol, or what is like it
                words += map(repr, get_args(member)) if get_origin(member) is Literal else [described(member)]
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a tuple of {get_args(kind)[0].__name__}"
    if _is_callable(kind):
        name = getattr(kind, "__name__", "")
        return f"a callable ({name})" if name and name != "Callable" else "a callable"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "none"}[kind]


def _as_one_of(kind: Any, value: Any) -> Any:
    problems = []
    for member in get_args(kind):
        try:
            return as_type(member, value)
        except (TypeError, ValueError) as error:
            problems.append(error)
    # A number that is not finite, or an unknown word where words are accepted, has a type that fits: ValueError.
    fits = any(isinstance(error, ValueError) for error in problems)
    raise (ValueError if fits else TypeError)(f"must be {described(kind)}, got {value!r}")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_callable(kind: Any) -> bool:
    """Return whether the values of a type are functions, such as factories and initialisers."""
    return kind not in (bool, int, float, str, NoneType) and get_origin(kind) not in (Literal, tuple)


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word
