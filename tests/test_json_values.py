"""Tests that everything written as JSON can be read by programs that keep to the standard."""

import ast
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import ConfigError, resolve
from aa_flax.json_values import from_json, to_json
from aa_flax.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]


def strict(text):
    """Return the value of a JSON text; raise ValueError for the words that only Python reads."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


VALUES = [
    (math.nan, None),
    (-math.inf, None),
    (np.float64("nan"), None),
    (np.float32("inf"), None),
    (np.float32(0.5), 0.5),
    (np.int32(7), 7),
    (np.bool_(True), True),
    (jnp.bfloat16(math.nan), None),
    (jnp.asarray([1.5, math.inf, -2]), [1.5, None, -2]),
    (np.asarray([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ((1, (math.nan, "NaN")), [1, [None, "NaN"]]),
    ({"a": {"b": [math.inf]}}, {"a": {"b": [None]}}),
    (True, True),
    (10**30, 10**30),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: repr(value)[:30])
def test_what_is_written(value, expected, tmp_path):
    for text in (to_json(value), to_json(value, indent=1)):
        assert strict(text) == expected
    assert type(strict(to_json(value))) is type(expected)
    RunDirectory(tmp_path).write_result({"loss": value})
    assert strict((tmp_path / "result.json").read_text()) == {"loss": expected}
    assert RunDirectory(tmp_path).read_result() == {"loss": expected}


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object(), b"x"])
def test_what_json_does_not_have(value):
    with pytest.raises(TypeError):
        to_json({"a": value})


def test_older_files_are_read():
    assert from_json('{"a": NaN, "b": [Infinity, -Infinity, 1]}') == {"a": None, "b": [None, None, 1]}
    with pytest.raises(ValueError):
        from_json('{"a": nan}')


@pytest.mark.parametrize("group", ["model", "task"])
@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, -math.inf], {"x": math.nan}])
def test_options_that_a_run_could_not_record(group, value):
    with pytest.raises(ConfigError, match=rf"'{group}.options' must hold plain values that JSON can keep"):
        resolve({group: {"options": {"depth": value}}})


def test_there_is_one_writer():
    """Everything else calls `to_json`. What is only hashed or checked is not written."""
    writers = []
    for path in sorted([*(ROOT / "aa_flax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps") and ast.unparse(node.value) == "json":
                writers.append(str(path.relative_to(ROOT)))
    assert writers == ["aa_flax/config/values.py", "aa_flax/data/sets/own.py", "aa_flax/json_values.py"]
