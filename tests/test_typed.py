"""Tests of the conversion of values and words to the types of options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from aa_flax.typed import as_type, described, field_types, guessed, parse

Word = Literal["sine", "none"]
Factory = Callable[..., int]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, np.int64(3), 3),
        (float, 2, 2.0),
        (float, np.float32(0.29), 0.29),
        (bool, False, False),
        (tuple[int, ...], [2, 1], (2, 1)),
        (int | tuple[int, ...], [2, 1], (2, 1)),
        (int | tuple[int, ...], 2, 2),
        (float | None, None, None),
        (float | None, 1, 1.0),
        (Word, "sine", "sine"),
        (Word | Factory, len, len),
        (Factory, len, len),
    ],
)
def test_values_that_fit(kind, value, expected):
    found = as_type(kind, value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "error", "words"),
    [
        (bool, "false", TypeError, "must be of type bool, got 'false'"),
        (bool, 0, TypeError, "must be of type bool, got 0"),
        (int, 1.5, TypeError, "must be of type int, got 1.5"),
        (int, True, TypeError, "must be of type int, got True"),
        (float, "0.1", TypeError, "must be of type float, got '0.1'"),
        (float, float("inf"), ValueError, "must be finite, got inf"),
        (tuple[int, ...], 3, TypeError, "must be a tuple, got 3"),
        (tuple[int, ...], (1, "a"), TypeError, "must be a tuple of int, got 'a'"),
        (int | tuple[int, ...], "a", TypeError, "must be a whole number or a tuple of int, got 'a'"),
        (float | None, "a", TypeError, "must be a number or none, got 'a'"),
        (Word, "cosine", ValueError, "must be one of 'sine', 'none', got 'cosine'"),
        (Word, ["sine"], TypeError, r"must be one of 'sine', 'none', got \['sine'\]"),
        (Word | Factory, "cosine", ValueError, "must be 'sine', 'none' or a callable, got 'cosine'"),
        (Word | Factory, 1.0, TypeError, "must be 'sine', 'none' or a callable, got 1.0"),
        (Factory, 3, TypeError, "must be a callable, got 3"),
    ],
)
def test_values_that_do_not_fit(kind, value, error, words):
    with pytest.raises(error, match=f"^{words}$"):
        as_type(kind, value)


@pytest.mark.parametrize(
    ("kind", "word", "expected"),
    [
        (bool, "false", False),
        (bool, "True", True),
        (int, " 12 ", 12),
        (float, "1e-3", 1e-3),
        (float, "2", 2.0),
        (str, "auto", "auto"),
        (str, "'auto'", "auto"),
        (str, "3", "3"),
        (Word, "none", "none"),
        (Word, '"sine"', "sine"),
        (tuple[int, ...], "(2, 1)", (2, 1)),
        (tuple[int, ...], "[2,1]", (2, 1)),
        (tuple[int, ...], "2,1", (2, 1)),
        (tuple[int, ...], "3", (3,)),
        (tuple[int, ...], "()", ()),
        (tuple[float, ...], "1,0.5", (1.0, 0.5)),
        (int | tuple[int, ...], "2", 2),
        (int | tuple[int, ...], "2,1,1", (2, 1, 1)),
        (float | None, "None", None),
        (float | None, "0", 0.0),
        (Word | Factory, "sine", "sine"),
        (str | int, "7", 7),
    ],
)
def test_words_of_a_command_line(kind, word, expected):
    found = parse(kind, word)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "word", "words"),
    [
        (bool, "maybe", "must be true or false, got 'maybe'"),
        (bool, "1", "must be true or false, got '1'"),
        (int, "1.5", "must be a whole number, got '1.5'"),
        (float, "nan", "must be a number, got 'nan'"),
        (Word, "cosine", "must be one of 'sine', 'none', got 'cosine'"),
        (tuple[int, ...], "(1, 2.5)", "must be a tuple of int, written 2,1 or (2,1), got '(1, 2.5)'"),
        (tuple[int, ...], "__import__('os')", "must be a tuple of int, written 2,1 or (2,1), got"),
        (float | None, "few", "must be a number or none, got 'few'"),
        (Factory, "len", "must be a callable, which only Python can give, got 'len'"),
    ],
)
def test_words_that_stand_for_nothing(kind, word, words):
    with pytest.raises(ValueError) as caught:
        parse(kind, word)
    assert str(caught.value).startswith(words)


def test_words_without_a_type():
    assert [guessed(word) for word in ("false", "2", "(2, 1)", "'a'", "sine")] == [False, 2, (2, 1), "a", "sine"]


def test_fields_of_a_dataclass():
    @dataclass(frozen=True)
    class Options:
        depth: int
        made: int = field(init=False, default=0)
        position: Word = "sine"

    assert field_types(Options) == {"depth": int, "position": Word}
    assert described(Word) == "one of 'sine', 'none'"
