"""Tests of the train command's order: the result is on disk before anything that may fail is drawn or shown."""

import json
import sys
from types import SimpleNamespace

import pytest
from absl import flags

from aa_flax import train
from aa_flax.analysis import whole_run
from aa_flax.config import command_line
from aa_flax.runs.directory import RunDirectory


def outcome(report):
    """Return an outcome whose task draws with `report`."""
    task = SimpleNamespace(report=report)
    return SimpleNamespace(
        setup=SimpleNamespace(program=SimpleNamespace(task=task), eval_source=None), model=0, scores=0
    )


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("a font"), MemoryError(), IndexError(3)])
def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_no_other_picture(tmp_path, caplog, error, monkeypatch):
    drawn = []

    def fails(*arguments):
        raise error

    whole_run.draw(RunDirectory(tmp_path), outcome(fails))
    assert f"a picture of the run could not be drawn: {type(error).__name__}" in caplog.text
    monkeypatch.setattr(whole_run, "learning_curves", fails)
    whole_run.draw(RunDirectory(tmp_path), outcome(lambda *arguments: drawn.append(arguments)))
    assert len(drawn) == 1


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.thorough
def test_the_result_is_written_before_pictures(plain_config, tmp_path, monkeypatch, capsys):
    plain_config.epochs = 1
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {plain_config.to_dict()!r}\n")
    monkeypatch.setattr(sys, "argv", ["train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"])
    values = flags.FlagValues()
    train.define(values)
    command_line._parse(values, "", dict, sys.argv)
    found = []

    def look(directory, outcome):
        found.append(json.loads((directory.path / "result.json").read_text()))
        raise RuntimeError("drawing ends the process")

    monkeypatch.setattr(whole_run, "draw", look)
    with pytest.raises(RuntimeError, match="drawing ends the process"):
        train.main(["train"], values)
    assert found[0]["finished"]
    train.main(["train"], values)  # nothing is trained again
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["loss"] == found[0]["loss"]
