"""Scores of one finished run by 1, 2 or 4 processes with four devices in all.

Each device computes the same images by the same program, however many processes there are, so scores are compared
exactly. On another number of devices each has more or fewer images at a time, and the last bits of products differ.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hosts import finish, start

BY_COUNT = [pytest.param(2, marks=pytest.mark.thorough), pytest.param(4, marks=pytest.mark.slow)]


class Scored(NamedTuple):
    """The scores of a run, {"values", "details", "examples"}; and what each process has found, its scorer's state."""

    scores: dict[str, Any]
    states: list[dict[str, np.ndarray]]


def score(count, folder, run, split, batch, **options):
    """Let `count` processes score a split together, in batches of all of them; options are those of the task."""
    (scored := folder / "scored").mkdir(exist_ok=True)
    command = (Path(__file__).with_name("score_child.py"), run, split, batch, json.dumps(options), scored)
    processes = start(count, *command, cache=folder / "cache")
    outputs = finish(processes, 900)
    assert [process.returncode for process in processes] == [0] * count, outputs
    files = [scored / f"{count}-{index}" for index in range(count)]
    scores, *others = (json.loads(file.with_suffix(".json").read_text()) for file in files)
    for other in others:
        np.testing.assert_equal(other, scores)
    return Scored(scores, [dict(np.load(file.with_suffix(".npz"))) for file in files])


def assert_same_scores(several, alone):
    """All is the same but the losses, whose sums over devices may be added in another order."""
    (losses, others), (expected_losses, expected) = (_apart(each.scores) for each in (several, alone))
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    np.testing.assert_equal(others, expected)


def _apart(scores):
    losses = {name: value for name, value in scores["values"].items() if name.endswith("loss")}
    values = {name: value for name, value in scores["values"].items() if name not in losses}
    return losses, {**scores, "values": values}
