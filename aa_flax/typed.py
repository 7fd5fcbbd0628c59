"""Conversion of values to the types of options' fields, from Python values and from words of a command line.

A type is bool, int, float, str, None, a `Literal`, `tuple[T, ...]`, a union of these, or anything callable (a protocol,
`Callable[...]`), which only Python can give. Errors begin with "must be"; callers put the name of the field before it.
"""

import ast
import dataclasses
import math
from numbers import Integral, Rational, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def field_types(schema: type) -> dict[str, Any]:
    """Return the name and type of every field that a dataclass is made from, in their order."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


def as_type(kind: Any, value: Any, form: str = "of type ") -> Any:
    """Return `value` as a type: a whole number serves as float and a list as tuple, nothing else changes.

    Raises:
        TypeError: the value is of another type.
        ValueError: the value is none of the accepted words, or a number that is not finite.
    """
    if _is_union(kind):
        return _as_one_of(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not isinstance(value, str | int | None) or value not in arguments:
            raise ValueError(f"must be one of {', '.join(map(repr, arguments))}, got {value!r}")
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
        return float(str(value))  # NumPy's float32: 0.29 as written, not 0.28999999
    if not isinstance(value, kind) or kind in (int, float):
        raise TypeError(f"must be {form}{kind.__name__}, got {value!r}")
    return value


def parse(kind: Any, text: str) -> Any:
    """Return the value of a type that a word of a command line stands for.

    A bool is true or false, None is none, both in any case; a tuple is (2, 1), [2, 1] or 2,1; words may be in quotes.

    Raises:
        ValueError: the word stands for no value of that type.
    """
    if _is_union(kind):
        for member in sorted(get_args(kind), key=lambda member: member is str):  # str last: every word is one
            try:
                return parse(member, text)
            except ValueError:
                continue
        raise ValueError(f"must be {described(kind)}, got {text!r}")
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
    raise ValueError(f"must be {described(kind)}, got {text!r}")


def guessed(text: str) -> Any:
    """Return the value of a command line's word whose type is not known: a literal, a bool, or the word itself."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return text


def described(kind: Any) -> str:
    """Return a type in words that can follow "must be"."""
    if _is_union(kind):
        *others, last = [
            word
            for member in get_args(kind)
            for word in (map(repr, get_args(member)) if get_origin(member) is Literal else [described(member)])
        ]
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a tuple of {get_args(kind)[0].__name__}"
    if _is_callable(kind):
        name = getattr(kind, "__name__", "")
        return f"a callable ({name})" if name and name != "Callable" else "a callable"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "none"}
    return words[kind]


def _as_one_of(kind: Any, value: Any) -> Any:
    problems = []
    for member in get_args(kind):
        try:
            return as_type(member, value)
        except (TypeError, ValueError) as error:
            problems.append(error)
    # A number that is not finite, or an unknown word where words are accepted, has a fitting type.
    fits = any(isinstance(error, ValueError) for error in problems) and isinstance(value, str | Real)
    raise (ValueError if fits else TypeError)(f"must be {described(kind)}, got {value!r}")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_callable(kind: Any) -> bool:
    """Return whether values of a type are functions, such as factories and initialisers."""
    return kind not in (bool, int, float, str, NoneType) and get_origin(kind) not in (Literal, tuple)


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word
