"""Tests of the order of compiling and timing whole steps, with steps that compute nothing."""

import threading
from types import SimpleNamespace

import pytest

from experiments.benchmarks import steps as library
from experiments.benchmarks.gpu import record, steps
from experiments.benchmarks.gpu.settings import Setting


class FakeSteps(SimpleNamespace):
    """Steps of a network whose compilation waits for an event, or fails, as its options say."""

    def lower_train(self):
        return self

    def as_text(self):
        return f"{self.name} {self.options}"

    def compile(self):
        if "waits_for" in self.options:
            self.events[self.options["waits_for"]].wait(60)
        if "error" in self.options:
            raise RuntimeError(self.options["error"])
        return self

    def memory_analysis(self):
        return SimpleNamespace(temp_size_in_bytes=5)

    def counted(self):
        return SimpleNamespace(params=3, flops=7)

    def running(self, compiled):
        def run(times):
            run.state.step += times

        run.state = SimpleNamespace(step=0, skipped=0)
        return run


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Return a function that runs these entries beside a plain network and returns the rows of the result.

    All steps take 4 ms, those called "double" 8 ms.
    """

    def run(*entries, left, timed=lambda: None, events=None):
        def take_turns(programs, **_):
            timed()
            return {label: [8.0 if label == "double" else 4.0] * 3 for label in programs}

        group = steps.Group(2, 8, (steps.Entry("plain", "plain"), *entries))
        monkeypatch.setattr(steps, "groups", lambda rehearse: (group, steps.Group(2, 8, (group.entries[0],))))
        monkeypatch.setattr(
            library, "prepare", lambda name, options, **_: FakeSteps(name=name, options=options, events=events)
        )
        monkeypatch.setattr(steps.timing, "take_turns", take_turns)
        monkeypatch.setattr(steps.os, "_exit", lambda code: None)
        monkeypatch.setattr(Setting, "left", lambda self: left.pop(0) if left else 0.0)
        steps.run(Setting(tmp_path, 0.4, "the command", rehearse=True))
        return {row["label"]: row for row in record.read(tmp_path / "steps.json")["rows"]}

    return run


def test_networks_that_fail_are_named_and_the_others_are_timed(rows, tmp_path):
    verdict = {"implementation": "bad", "map": "7x7", "dtype": "bfloat16", "passed": False, "reason": "it is wrong"}
    record.Record(tmp_path / "correct.json").put(rows=[verdict])
    found = rows(
        steps.Entry("double", "net"),
        steps.Entry("broken", "net", {"error": "INTERNAL: it broke"}),
        steps.Entry("wrong", "net", {}, "bad", ("14x14", "7x7")),
        steps.Entry("again", "net"),
        left=[60.0] * 9,
    )
    assert found["plain"]["train_ratio"] == 1 and found["plain"]["train_ms"] == 4
    assert found["double"]["train_ratio"] == 2 and found["double"]["train_images_per_second"] == 250
    assert found["double"]["train_temporary_bytes"] == 5 and found["double"]["params"] == 3
    assert found["broken"]["not_measured"] == "RuntimeError: INTERNAL: it broke"
    assert found["wrong"]["not_measured"] == "left out: 7x7 bfloat16: it is wrong"
    assert "while_compiling" not in found["double"]
    assert found["again"]["not_measured"] == "the same program as double"


def test_what_compiles_long_is_timed_later_and_what_never_ends_is_named(rows):
    late, never = threading.Event(), threading.Event()
    try:
        found = rows(
            steps.Entry("late", "net", {"waits_for": "late"}),
            steps.Entry("never", "net", {"waits_for": "never"}),
            left=[0.4] * 5,
            timed=late.set,
            events={"late": late, "never": never},
        )
    finally:
        never.set()
    assert found["plain"]["while_compiling"] == ["late", "never"]
    assert found["late"]["while_compiling"] == ["never"] and found["late"]["train_ratio_to"] == "plain"
    assert found["never"]["not_measured"] == "it was still compiling"
