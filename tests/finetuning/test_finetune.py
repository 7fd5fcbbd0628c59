"""Tests of fine-tuning from beginning to end, from Python and as a command."""

import json
import sys

import pytest
from absl import flags
from flax import nnx

from aa_flax import finetune as command
from aa_flax import weights
from aa_flax.config import command_line
from aa_flax.config.changes import options_among, take_changes, with_changes
from aa_flax.config.schema import default_config
from aa_flax.data import DataError
from aa_flax.finetuning import finetune
from aa_flax.models import create_model
from aa_flax.training import ConfigError


def run(monkeypatch, *words):
    """Run the command in this process, without what a process does at its end."""
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, words)])
    values = flags.FlagValues()
    command.define(values)
    argv = command_line._parse(values, "", dict, sys.argv)
    command.main(argv, values)


@pytest.mark.thorough
def test_a_folder_is_learnt_interrupted_and_used(tmp_path, flowers, monkeypatch, capsys):
    model = create_model("resnet18", num_classes=7, image_size=32, width=8, blocks=(1, 1, 1, 1), rngs=nnx.Rngs(3))
    weights.save(model, tmp_path / "start.safetensors")
    monkeypatch.chdir(tmp_path)
    changes = {"data.data_dir": str(tmp_path / "tfds"), "epochs": 5, "optimizer.learning_rate": 0.01}
    finetune("flowers", "start.safetensors", changes={**changes, "stop_after_epoch": 1})
    said = capsys.readouterr().out
    assert "network: resnet18 at 32×32, from resnet18 in" in said and "new: head" in said
    assert "epochs 1 to 1 of 5: what is new learns" in said
    (tmp_path / "start.safetensors").unlink()  # it is in the run
    flowery = finetune("flowers", changes={"stop_after_epoch": 0})
    said = capsys.readouterr().out
    assert "runs/flowers: goes on with the run that lies there" in said and "stem learn from here on too" in said
    assert flowery("flowers/rose/1.png").name == "rose"
    # The same as a command, which has nothing left to do but to say the result and how to use it.
    run(monkeypatch, "flowers", "--config.stop_after_epoch=0")
    *told, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["finished"] and json.loads(last)["accuracy"] >= 0.8
    assert any(f"aa-flax predict --workdir={tmp_path}/runs/flowers" in line for line in told)
    assert any("confusion_matrix.png, learning_curves.png, surest_mistakes.png" in line for line in told)
    with pytest.raises(ConfigError, match="holds a run with another config: epochs was 5 and is now 6"):
        run(monkeypatch, "flowers", "--config.epochs=6")
    with pytest.raises(ConfigError, match="holds a run of a folder as image_folder, and not as voc; use another"):
        run(monkeypatch, "flowers", "--kind=voc")
    with pytest.raises(ConfigError, match=r"holds a run from \S+start.safetensors, and not from others; use another"):
        run(monkeypatch, "flowers", "--from=others")
    (flowers / "rose" / "1.png").unlink()
    with pytest.raises(ConfigError, match=r"holds a run of image_folder/flowers_\w{8}, and \S+ is image_folder/flow"):
        run(monkeypatch, "flowers")


def test_mistakes_on_the_command_line_are_one_line(tmp_path, flowers, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, told in (
        ([], "expected one folder of photographs, got none"),
        (["a", "b"], "expected one folder of photographs, got a b"),
        (["flowers", "--config=quickstart"], "this command makes its config itself; --config.FIELD=VALUE changes it"),
        (["flowers", "--config.epocs=3"], "unknown config field 'epocs'; did you mean 'epochs'?"),
        (["flowers", "--config.epochs=many"], "flag --config.epochs=many: must be a whole number, got 'many'"),
        (["flowers", "--config.epochs"], "--config.epochs: needs a value, --config.epochs=VALUE"),
        (["flowers", "--kind=boxes"], "value should be one of <|image_folder|coco_json|voc|yolo|label_folder>"),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, *words)
        error = capsys.readouterr().err
        assert told in error and error.startswith("error: ") and error.count("\n") == 1, error
    with pytest.raises(DataError, match="nowhere: no such folder"):
        run(monkeypatch, "nowhere")
    assert {path.name for path in tmp_path.iterdir()} == {"flowers"}


def test_changes_of_a_config():
    rest, changes = take_changes(
        ["it", "--config.epochs=3", "--from=x", "--config.model.options.width=8", "--config.data.image_size=32,48"]
    )
    assert rest == ["it", "--from=x"]
    assert changes == {"epochs": 3, "model.options.width": "8", "data.image_size": (32, 48)}
    config = default_config()
    with_changes(config, changes)
    assert (config.epochs, config.data.image_size, "width" in config.model.options) == (3, (32, 48), False)
    assert options_among(changes, "model", {"width": int}) == {"width": 8} and options_among(changes, "task", {}) == {}
    with pytest.raises(ConfigError, match="config field 'model.options.width' must be a whole number, got 'x'"):
        options_among({"model.options.width": "x"}, "model", {"width": int})
    with pytest.raises(ConfigError, match="'model' is a group of config fields"):
        take_changes(["--config.model=resnet18"])
