"""Stands for Weights & Biases: notes each call in the file NOTED, and takes only what the package takes."""

import json
import os
from numbers import Real
from pathlib import Path


def _note(*call):
    with Path(os.environ["NOTED"]).open("a") as file:
        file.write(json.dumps(call) + "\n")


class _Summary:
    def update(self, values):
        _note("summary", values)


class Run:
    """A run, which gets values over a metric that is defined as their step."""

    summary = _Summary()

    def define_metric(self, name, step_metric=None):
        _note("define_metric", name, step_metric)

    def log(self, data):
        assert all(isinstance(value, Real) and not isinstance(value, bool) for value in data.values())
        _note("log", data)

    def finish(self):
        _note("finish")


def init(*, id, resume, name, dir, config):
    """Begin a run, or go on with the one of that id."""
    assert resume == "allow" and 0 < len(id) <= 64 and not set(id) & set("/\\#?%:") and Path(dir).is_dir()
    _note("init", id, name, config)
    return Run()
