"""Tests of the display options of tasks as flags of `aa_flax.predict`."""

from types import SimpleNamespace

import pytest
from absl import flags

from aa_flax import predict
from aa_flax.tasks.classification import Classification
from aa_flax.tasks.detection import Detection
from aa_flax.tasks.display import define_displays, display_of


def parsed(name, *words):
    values = flags.FlagValues()
    define_displays(name, values)
    values(["predict", *words])
    return values


def shown(task, name, *words, result=None):
    """Return the display options, and what is said of them, for the class of a task."""
    own = SimpleNamespace(display=task.display)
    if hasattr(task, "recorded_display"):
        own.recorded_display = lambda result: task.recorded_display(own, result)
    return display_of(own, name, parsed(name, *words), lambda: result)


@pytest.mark.parametrize(
    ("task", "name", "word", "told"),
    [
        (Classification, "classification", "--threshold=0.5", "--threshold is for runs of detection; this run is of "),
        (Detection, "detection", "--top=3", "--top is for runs of classification; this run is of detection, which has"),
    ],
)
def test_flags_of_another_task_are_refused_by_name(task, name, word, told, capsys):
    with pytest.raises(SystemExit):
        shown(task, name, word)
    own = {"classification": "which has --top\n", "detection": "which has --threshold\n"}[name]
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}") and error.endswith(own) and error.count("\n") == 1


def test_the_threshold_is_the_runs_own_unless_it_is_given():
    for result, expected in (({"threshold": 0.42, "AP": 0.5}, 0.42), ({"AP": None}, 0.3), (None, 0.3)):
        display, said = shown(Detection, "detection", result=result)
        assert display.threshold == expected
        assert said == (["threshold 0.42, from the run's result.json; --threshold takes another"] * (expected == 0.42))
    for given in ("0.3", "0"):
        display, said = shown(Detection, "detection", f"--threshold={given}", result={"threshold": 0.42})
        assert (display.threshold, said) == (float(given), [])


def test_the_result_is_read_where_something_is_taken_from_it_only():
    display = display_of(
        SimpleNamespace(display=Classification.display), "classification", parsed("classification"), pytest.fail
    )[0]
    assert display == Classification.display()


def test_no_folder_is_made_where_no_image_was_seen(tmp_path):
    task = SimpleNamespace(draw=pytest.fail, mask_picture=pytest.fail)
    assert predict._pictures(str(tmp_path / "a"), task, {}, None, 3) == {}
    assert predict._masks(str(tmp_path / "b.png"), task, {}, None) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "classification", "detection"])
def test_values_are_checked_whatever_the_task(name):
    for word in ("--threshold=1", "--threshold=-0.1", "--top=0"):
        with pytest.raises(flags.IllegalFlagValueError, match="must be"):
            parsed(name, word)
