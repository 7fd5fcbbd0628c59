"""Tests of a tiny network of signals by the commands: it trains, resumes, is evaluated, and has no pictures."""

import json

import forked
import numpy as np
import pytest
from tasks.commands import environment, run, weights_of_both

CONFIG = """
from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.epochs, config.batch_size, config.eval_batch_size = 2, 4, 5
    config.log_every_steps = 1
    config.model.name = "aa_wide_resnet28_10"
    config.model.options = dict(depth=10, widen_factor=1, attention_stages=(2, 3))
    config.model.options.update(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)
    config.data.name, config.data.source_dir, config.data.data_dir = "ts/tones", "tones", "tfds"
    config.data.crop, config.data.flip, config.data.image_size = "none", False, (12,)
    config.optimizer.learning_rate = 0.05
    config.optimizer.accumulation_steps = 2
    return config
"""


def series(rng, count):
    """Return lines of the format .ts: noise of 4 to 11 frames around -1 or 1, and the name of the sign."""
    lines = []
    for number in range(count):
        sign = (-1, 1)[number % 2]
        values = sign + 0.1 * rng.normal(size=(2, rng.integers(4, 12)))
        lines.append(
            ":".join([*(",".join(map(str, channel)) for channel in values.round(4)), ("low", "high")[sign > 0]])
        )
    return "@dimensions 2\n@classLabel true low high\n@data\n" + "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("signals"), np.random.default_rng(6)
    (folder / "tones").mkdir()
    for split, count in (("TRAIN", 16), ("TEST", 7)):
        (folder / "tones" / f"tones_{split}.ts").write_text(series(rng, count))
    (folder / "config.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """Return the run directory of the config, and the output of the command."""
    return folder / "run", run(folder, "train", "--config=config.py", "--workdir=run")


@pytest.mark.thorough
def test_what_a_run_leaves(trained):
    workdir, printed = trained
    last = json.loads(printed.splitlines()[-1])
    assert last["finished"] and last["examples"] == 7
    assert {*json.loads((workdir / "result.json").read_text())["accuracy_per_class"]} == {"low", "high"}
    assert {path.name for path in workdir.glob("*.png")} == {"learning_curves.png", "confusion_matrix.png"}


@pytest.mark.slow  # four more commands
def test_resumed_is_the_same_bit_for_bit(folder, trained):
    assert "stage2.block1.conv1.rel_length" in weights_of_both(folder)


@pytest.mark.thorough
def test_evaluated_again_it_scores_the_same(folder, trained):
    workdir, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    again = json.loads(run(folder, "evaluate", f"--workdir={workdir}").splitlines()[-1])
    assert again["accuracy"] == result["accuracy"]
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ("predict", "--workdir=run", "photo.jpg"),
            "photographs are predicted, and this network was trained on signals",
        ),
        (("sheet", "--config=config.py", "--out=sheet.png"), "ts/tones has signals, which are no pictures"),
        (("data", "draw", "ts/tones", "--data_dir=tfds"), "ts/tones has signals, which are no pictures"),
    ],
)
def test_commands_for_pictures_say_so(folder, trained, command, words):
    module, *arguments = command
    done = forked.run("-m", f"aa_flax.{module}", *arguments, environment=environment(folder), cwd=folder)
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr
