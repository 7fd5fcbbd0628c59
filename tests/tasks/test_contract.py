"""Tests of what every task keeps to: a mistake is one line, before or at the first scores."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.targets import check_targets
from aa_flax.tasks import Scores, make_task, task_class
from aa_flax.tasks.classification import Classification
from aa_flax.tasks.contract import METRICS, TARGETS, check_metrics, check_task, checked_scores, is_table

PREPROCESSING = Preprocessing((2, 3), 1, (0.5,), (0.25,), ("ant", "bee"), "float32", "")


@pytest.mark.parametrize("name", ["", ":X", ".x:Y", "x:", "os:getcwd", "os:path", "no_such:X", "os:Nothing", "a b:C"])
def test_what_is_no_class_of_a_task(name):
    with pytest.raises(ConfigError, match=r"config field 'task\.name'") as error:
        task_class(name)
    assert "\n" not in str(error.value)


def test_a_class_that_is_no_task():
    with pytest.raises(ConfigError, match="'pathlib:PurePath' is not a task"):
        make_task(resolve({"task": {"name": "pathlib:PurePath"}}), PREPROCESSING)


@pytest.mark.parametrize("name", sorted(TARGETS | METRICS))
def test_names_that_are_taken(name):
    task = make_task(resolve({}), PREPROCESSING)
    given = SimpleNamespace(targets=task.targets, metrics={}, display=task.display)
    check_task("mine:Task", given)
    if name in METRICS:
        given.metrics = {name: np.float32}
        with pytest.raises(ConfigError, match=f"task 'mine:Task': a metric may not be called '{name}'"):
            check_task("mine:Task", given)
    if name in TARGETS:
        given = SimpleNamespace(targets=SimpleNamespace(shapes={name: None}), metrics={}, display=task.display)
        with pytest.raises(ConfigError, match=f"a target may not be called '{name}'"):
            check_task("mine:Task", given)


@pytest.mark.usefixtures("unchecked_shapes")  # a task may give numbers of NumPy
def test_scores():
    task = make_task(resolve({}), PREPROCESSING)
    good = Scores({"loss": np.float32(0.5), "accuracy": np.asarray(0.25)}, examples=4)
    found = checked_scores(task, good)
    assert found.values == {"loss": 0.5, "accuracy": 0.25} and type(found.values["accuracy"]) is float
    for changed, words in (
        ({"values": {"loss": 1.0}}, "'accuracy' is not among the scores loss"),
        ({"values": {"accuracy": 1.0}}, "'loss' is not among the scores accuracy"),
        ({"values": {**good.values, "epoch": 1}}, "a score may not be called 'epoch'"),
        ({"details": {"finished": False}}, "a score may not be called 'finished'"),
        ({"values": {**good.values, "raw_loss": 1}}, "a score may not be called 'raw_loss'"),
        ({"values": {**good.values, "more": "much"}}, "scores must be numbers"),
    ):
        with pytest.raises(ConfigError, match=words):
            checked_scores(task, dataclasses.replace(good, **changed))


def test_metrics_that_are_not_those_declared():
    task = make_task(resolve({}), PREPROCESSING)
    check_metrics(task, dict.fromkeys(task.metrics))
    for metrics, words in (
        ({}, "returns the metrics none; declared are "),
        ({"more": 1}, "returns the metrics more; "),
    ):
        with pytest.raises(ConfigError, match=f"task Classification: losses {words}"):
            check_metrics(task, metrics)


def test_targets_that_are_not_those_declared():
    shapes = {"boxes": jax.ShapeDtypeStruct((2, 4), np.float32), "count": jax.ShapeDtypeStruct((), np.int32)}
    good = {"boxes": np.zeros((2, 4), np.float32), "count": np.int32(1)}
    check_targets(good, shapes)
    for changed, words in (
        ({"boxes": np.zeros((1, 4), np.float32)}, r"target 'boxes' was read as float32 \[1, 4\]; .* float32 \[2, 4\]"),
        ({"boxes": np.zeros((2, 4))}, r"target 'boxes' was read as float64 \[2, 4\]; declared is float32"),
        ({"count": [1]}, r"target 'count' was read as int64 \[1\]; declared is int32 \[\]"),
        ({"more": 1}, "targets 'boxes', 'count', 'more' were read of an example; declared are 'boxes', 'count'"),
    ):
        with pytest.raises(TypeError, match=words):
            check_targets({**good, **changed}, shapes)


def test_details_that_tables_show():
    assert is_table({"ant": 0.5, "bee": None}) and is_table({})
    for other in ({"notes": "long"}, {1: 0.5}, {"ant": float("nan")}, [0.5], "text", None, {"a": {"b": 1}}):
        assert not is_table(other)


def test_the_classifier_keeps_to_it():
    check_task("classification", make_task(resolve({}), PREPROCESSING))
    assert Classification.headline in ("accuracy",)
