"""Tests that a run keeps the checkpoint of its highest score, whatever happens, and tells a function its log.

What the network scores is given, so that the best epoch is known.
"""

import json

import pytest
from run_files import assert_same, final_state, rows

from aa_flax.analysis.whole_run import result_of
from aa_flax.models.functional import functional
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectoryError
from aa_flax.runs.metrics import read_metrics
from aa_flax.tasks import Scores
from aa_flax.training import RunDirectory, loop, resolve
from aa_flax.training.loop import train
from aa_flax.training.trained import load_model


@pytest.fixture
def scored(monkeypatch):
    """Return the function that says what the next evaluations score."""

    def scored(*accuracies):
        left = list(accuracies)
        score = lambda *_, **__: Scores({"loss": 1.0, "accuracy": left.pop(0)}, examples=50)  # noqa: E731
        monkeypatch.setattr(loop, "make_scorer", lambda program: score)

    return scored


def kept(workdir):
    return saved_steps(workdir / "checkpoints")


def test_the_first_of_the_best_stays_and_a_function_is_told_the_log(plain_config, tmp_path, scored, capsys, caplog):
    plain_config.epochs, plain_config.keep_checkpoints = 3, 1
    told = []

    def on_metrics(row):
        told.append(dict(row))
        row.clear()  # it is the function's own
        if len(told) in (2, 5, 6):
            raise RuntimeError("no network")

    scored(0.25, 0.5, 0.5)
    outcome = train(resolve(plain_config), tmp_path, on_metrics=on_metrics)
    assert kept(tmp_path) == [8, 12]
    assert outcome.best == (8, 2, 0.5)
    result = result_of(resolve(plain_config), outcome)
    assert {name: result[name] for name in ("accuracy", "epochs", "best_score", "best_epoch", "best_step")} == {
        "accuracy": 0.5,
        "epochs": 3,
        "best_score": 0.5,
        "best_epoch": 2,
        "best_step": 8,
    }
    directory = RunDirectory(tmp_path)
    (best, best_step), (last, last_step) = (load_model(directory, which) for which in ("best", "last"))
    assert (best_step, last_step) == (8, 12)
    with pytest.raises(AssertionError):
        assert_same(functional(best)[1], functional(last)[1])

    assert outcome.finished and told == read_metrics(directory.log)
    said = [record.getMessage() for record in caplog.records if "on_metrics" in record.getMessage()]
    assert len(said) == 2 and said[0].startswith("on_metrics raised RuntimeError: no network (")
    assert all(each.endswith("; the run goes on") and f"{__file__}, line " in each for each in said)
    rates = [row["images_per_second"] for row in told if row["split"] == "train"]
    assert len(rates) == 6 and all(rate > 0 for rate in rates)  # the first window too, without its compilation
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    words = ("best so far", "best so far", "as good as epoch 2, the first of the best")
    for line, said in zip(lines, words, strict=True):
        assert f"  {said}  " in line and " images/s  " in line


@pytest.mark.few(0, thorough=2)
@pytest.mark.parametrize(
    ("fields", "accuracies", "expected"),
    [
        ({"checkpoint_every_epochs": 4}, (0.25, 0.5, 0.5, float("nan")), [8, 16]),
        ({}, (0.5, 0.25, 0.25, 0.25), [4, 16]),
        ({}, (0.25, float("nan"), 0.25, 0.5), [16]),
        ({"eval_every_epochs": 2, "checkpoint_every_epochs": 4}, (0.5, 0.25), [8, 16]),
        ({"keep_best": False}, (0.5, 0.25, 0.25, 0.25), [16]),
    ],
)
def test_what_stays(plain_config, tmp_path, scored, fields, accuracies, expected):
    plain_config.keep_checkpoints = 1
    plain_config.update(fields)
    scored(*accuracies)
    outcome = train(resolve(plain_config), tmp_path)
    assert kept(tmp_path) == expected and outcome.best.step == (expected[0] if fields.get("keep_best", True) else 4)


class Killed(BaseException):
    """As if the process had ended there."""


@pytest.mark.slow
def test_kills_change_nothing_of_what_stays(plain_config, tmp_path, scored, monkeypatch):
    accuracies = (0.25, 0.5, 0.5, 0.25)
    plain_config.keep_checkpoints = 1

    def run(workdir):
        evaluated = len([row for row in read_metrics(workdir / "metrics.jsonl") if row["split"] == "eval"])
        scored(*accuracies[evaluated:], accuracies[-1])  # the last once more, where nothing is left to do
        return train(resolve(plain_config), workdir)

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(straight).best == (8, 2, 0.5) and kept(straight) == [8, 16]

    prune, left = Checkpoints.prune, []

    def pruned(checkpoints):
        """End the process at the last of the calls that are left: with an evaluation's row, before its effect."""
        if left and left.pop() == "killed":
            raise Killed
        prune(checkpoints)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "prune", pruned)
        for epoch, before in ((2, 1), (4, 2)):  # calls of this process; one of them for the evaluation before it
            left[:] = ["killed", *["ended"] * before]
            with pytest.raises(Killed):
                run(killed)
            assert len([row for row in rows(killed) if row["split"] == "eval"]) == epoch
    assert run(killed).best == (8, 2, 0.5)
    assert kept(killed) == kept(straight) and rows(killed) == rows(straight)
    assert_same(final_state(killed), final_state(straight))


@pytest.mark.usefixtures("unchecked_shapes")  # a word that is none of those gets the library's own error
def test_a_run_that_was_never_scored_has_no_best(tmp_path, straight):
    directory = RunDirectory(straight)
    assert load_model(directory, "best")[1] in kept(straight)
    for name in ("config.json", "preprocessing.json"):
        (tmp_path / name).write_text((straight / name).read_text())
    (tmp_path / "checkpoints").symlink_to(straight / "checkpoints")
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": 8, "split": "eval", "epoch": 2, "accuracy": None}) + "\n"
    )
    for word in ("first", "8", True, 8.0):
        with pytest.raises(ValueError, match='checkpoint must be "last", "best" or a step, got '):
            load_model(directory, word)
    with pytest.raises(RunDirectoryError, match="has no checkpoint that was evaluated"):
        load_model(RunDirectory(tmp_path), "best")
