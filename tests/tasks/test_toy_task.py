"""Tests with a second task, defined in this file alone: the mean colour of an image, if it is measured.

The library, which contains nothing about colours, does everything else: it trains by the command, resumes bit for bit,
accumulates gradients, evaluates on two processes, predicts, draws and plans.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from aa_flax import data
from aa_flax.analysis.programs import lower, of_config
from aa_flax.config.fields import field
from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data.images import decode_image
from aa_flax.data.pipeline import eval_batches
from aa_flax.data.view import View
from aa_flax.models import create_model
from aa_flax.models.functional import functional
from aa_flax.runs.metrics import read_metrics
from aa_flax.tasks import Scores, Task, make_task
from aa_flax.tasks.augmentation import make_augment
from aa_flax.tasks.options import options_of
from aa_flax.training.state import create_state
from aa_flax.training.step import make_gradient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
import forked  # noqa: E402
from hosts import finish, free_port  # noqa: E402
from tasks.commands import weights_of_both  # noqa: E402

CHANNELS = ("red", "green", "blue")


class MeanColour:
    """Targets: the mean of each channel, 0 to 1, and whether it counts, which is false in the class "unmeasured"."""

    shapes: Mapping[str, Any] = {
        "colour": jax.ShapeDtypeStruct((3,), np.float32),
        "measured": jax.ShapeDtypeStruct((), np.bool_),
    }

    def reader(self, features):
        unmeasured = features["label"].str2int("unmeasured")

        def read(record):
            colour = decode_image(record["image"], 3).mean((0, 1), dtype=np.float32) / 255
            return {"colour": colour, "measured": np.bool_(record["label"] != unmeasured)}

        return read


@dataclass(frozen=True)
class ColourOptions:
    scale: float = 1.0  # factor of the loss


@dataclass(frozen=True)
class ColourDisplay:
    digits: int = field(2, "how many digits of each channel to print", at_least=1)


class Colour:
    targets = MeanColour()
    metrics: Mapping[str, Any] = {"error": jnp.float32}
    headline = "closeness"
    fractions = frozenset({"error_by_channel"})
    display = ColourDisplay

    def __init__(self, config, preprocessing):
        self.config, self.preprocessing = config, preprocessing
        self.options = options_of(config, ColourOptions)
        self._augment = make_augment(config, preprocessing)

    def check(self, devices):
        if self.config.data.color_jitter:
            raise ConfigError("config field 'data.color_jitter' changes the colours that are asked for")

    def check_dataset(self, dataset):
        pass

    def build(self, rngs):
        height_and_width = self.preprocessing.image_size
        options = dict(self.config.model.options, num_classes=3, image_size=height_and_width)
        return create_model(self.config.model.name, rngs=rngs, **options)

    def prepare(self, batch, key):
        targets = {"colour": batch["colour"], "measured": batch["measured"]}
        return self._augment(batch["image"], key), targets, jnp.maximum(batch["measured"].sum(dtype=jnp.float32), 1)

    def losses(self, model, images, targets, *, train, rngs):
        missed = (model(images, train=train, rngs=rngs) - targets["colour"]) * targets["measured"][:, None]
        losses = self.options.scale * jnp.mean(missed**2, -1)
        return losses, {"error": (jnp.abs(missed).sum(), 3.0 * targets["measured"].sum())}

    def predict(self, model, images, placement):
        return {"colour": model(images, train=False)}

    def score(self, predictions, batch):
        counted = batch["mask"] & batch["measured"]
        missed = (predictions["colour"] - batch["colour"]) * counted[:, None]
        return {"squared": jnp.sum(missed**2), "missed": jnp.abs(missed).sum(0), "count": counted.sum()}

    def scores(self, sums):
        count = int(sums["count"])
        missed = np.asarray(sums["missed"], np.float64) / count
        return Scores(
            values={"loss": float(sums["squared"]) / (3 * count), "closeness": -float(missed.mean())},
            details={"error_by_channel": dict(zip(CHANNELS, missed.tolist(), strict=True))},
            examples=count,
        )

    def lines(self, scores):
        return [f"{value:.3f} off in {name}" for name, value in scores.details["error_by_channel"].items()]

    def report(self, model, scores, source, folder):
        (folder / "colours.txt").write_text("\n".join(self.lines(scores)))

    def title(self, example):
        return " ".join(f"{value:.2f}" for value in example["colour"])

    def describe(self, prediction, display):
        return [f"  {name} {value:.{display.digits}f}" for name, value in self._named(prediction)]

    def captions(self, prediction):
        return [(0, " ".join(f"{name} {value:.2f}" for name, value in self._named(prediction)))]

    def _named(self, prediction):
        return zip(CHANNELS, map(float, prediction["colour"]), strict=True)


CONFIG = """
from aa_flax.training import default_config

def get_config():
    config = default_config()
    config.task.name = "test_toy_task:Colour"
    config.task.options.scale = 2.0
    config.model.name = "wide_resnet28_10"
    config.model.options = dict(depth=10, widen_factor=1)
    config.epochs, config.batch_size, config.eval_batch_size = 2, 8, 4
    config.log_every_steps = 2
    config.data.name, config.data.data_dir, config.data.source_dir = "image_folder/colours", {data!r}, {images!r}
    config.data.train_split, config.data.eval_split = "train", "test"
    config.data.crop, config.data.image_size = "none", 8
    config.optimizer.learning_rate = 0.01
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with photographs of 12 × 8 pixels in one colour each, and a config."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(3)
    for split, count in (("train", 20), ("test", 7)):
        for index in range(count):
            file = folder / "images" / split / ("unmeasured" if index % 4 == 3 else "measured") / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(-8, 8, (12, 8, 3))
            Image.fromarray((rng.integers(20, 236, 3) + noise).astype(np.uint8)).save(file)
    (folder / "config.py").write_text(CONFIG.format(data=str(folder / "tfds"), images=str(folder / "images")))
    return folder


def environment(folder, **more):
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), str(HERE.parent)]),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        **more,
    }


def run(folder, module, *arguments, code=0):
    done = forked.run("-m", f"aa_flax.{module}", *arguments, environment=environment(folder), cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(folder):
    """Return the run directory of the config, and the output of the command."""
    return folder / "run", run(folder, "train", "--config=config.py", "--workdir=run")


def config_of(folder, **fields):
    sys.path.insert(0, str(HERE))  # where the module is that the config names
    values: dict[str, Any] = json.loads((folder / "run" / "config.json").read_text())
    values["data"].update(data_dir=str(folder / "tfds"), source_dir="")
    return resolve({**values, **fields})


def test_it_is_a_task(folder, trained):
    config = config_of(folder)
    assert isinstance(make_task(config, of_config(config).preprocessing), Task)


def test_its_scores_are_in_the_log_the_result_and_the_pictures(trained):
    workdir, printed = trained
    rows = read_metrics(workdir / "metrics.jsonl")
    assert all("error" in row for row in rows if row["split"] == "train")
    assert [row["step"] for row in rows if row["split"] == "eval"] == [2, 4]
    result = json.loads((workdir / "result.json").read_text())
    assert result["finished"] and result["headline"] == "closeness" and result["examples"] == 6  # 7, 1 unmeasured
    last = [row for row in rows if row["split"] == "eval"][-1]
    assert (result["closeness"], result["loss"]) == (last["closeness"], last["loss"])
    assert result["error_by_channel"].keys() == {*CHANNELS}
    assert json.loads(printed.splitlines()[-1])["closeness"] == result["closeness"]
    assert "closeness" in printed and "error by channel, %" in printed
    assert (workdir / "colours.txt").exists() and (workdir / "learning_curves.png").exists()
    assert not {name for name in ("accuracy", "label") if name in last}


@pytest.mark.thorough
def test_resumed_is_the_same_bit_for_bit(folder, trained):
    sys.path.insert(0, str(HERE))  # where the module is that the config names
    assert len(weights_of_both(folder, run)) > 20
    kept = ("step", "split", "loss", "error", "closeness", "grad_norm")
    logs = [
        [{name: row.get(name) for name in kept} for row in read_metrics(folder / run / "metrics.jsonl")]
        for run in ("run", "again")
    ]
    assert logs[0] == logs[1]


def test_checkpoints_are_told_apart_by_its_headline(folder, trained):
    workdir, _ = trained
    listed = run(folder, "checkpoints", "list", f"--workdir={workdir}").splitlines()
    assert listed[0].endswith("held-out closeness") and len(listed) == 3
    shutil.copytree(workdir, folder / "pruned")
    scores = {
        row["step"]: row["closeness"] for row in read_metrics(workdir / "metrics.jsonl") if row["split"] == "eval"
    }
    run(folder, "checkpoints", "prune", "--keep=1", "--keep_best", "--workdir=pruned")
    best = max(scores, key=lambda step: scores[step])
    assert {path.name for path in (folder / "pruned" / "checkpoints").iterdir() if path.name.isdigit()} == {
        *map(str, {4, best})
    }


@pytest.mark.thorough
def test_evaluate_predict_and_sheet(folder, trained):
    workdir, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    printed = run(folder, "evaluate", f"--workdir={workdir}").splitlines()
    assert json.loads(printed[-1])["closeness"] == pytest.approx(result["closeness"], rel=1e-6)
    assert printed[0].endswith("off in red")
    photo = folder / "images" / "test" / "measured" / "0.png"
    lines = run(folder, "predict", f"--workdir={workdir}", "--digits=4", photo).splitlines()
    assert lines[0] == str(photo) and [line.split()[0] for line in lines[1:]] == [*CHANNELS]
    assert all(len(line.split(".")[1]) == 4 for line in lines[1:])
    run(folder, "sheet", "--config=config.py", "--out=sheet.png", "--rows=3", "--columns=2")
    assert (folder / "sheet.png").stat().st_size > 1000


@pytest.mark.thorough
def test_two_processes_reach_what_one_reaches(folder, trained):
    workdir, _ = trained
    port, processes = free_port(), []
    for index in range(2):
        variables = {
            "AA_FLAX_COORDINATOR": f"localhost:{port}",
            "AA_FLAX_PROCESS_COUNT": "2",
            "AA_FLAX_PROCESS_INDEX": str(index),
        }
        command = ["-m", "aa_flax.train", "--config=config.py", "--workdir=two"]
        processes.append(forked.start(*command, environment=environment(folder, **variables), cwd=folder, both=True))
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (json.loads((path / "result.json").read_text()) for path in (workdir, folder / "two"))
    assert one["examples"] == two["examples"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert two["closeness"] == pytest.approx(one["closeness"], rel=1e-3)


class Dot(nnx.Module):
    """A network without batch statistics, so that micro-batches give the same gradient as the whole batch."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, images, *, train=None, rngs=None):
        return self.linear(images.mean((1, 2)))


def test_pieces_come_to_the_gradient_of_the_whole(folder, trained, rng):
    """Micro-batches have different numbers of measured images; the loss is divided by that of the whole batch."""
    config = config_of(folder)
    subject = of_config(config)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (8, 8, 8, 3), np.uint8)),
        "colour": jnp.asarray(rng.random((8, 3)), jnp.float32),
        "measured": jnp.asarray([True, False, True, False, True, True, True, False]),
    }

    found = []
    for pieces in (1, 4):
        optimizer = dataclasses.replace(config.optimizer, accumulation_steps=pieces)
        changed = dataclasses.replace(config, optimizer=optimizer)
        task = make_task(changed, subject.preprocessing)
        losses, params, batch_stats = functional(Dot(nnx.Rngs(0)), task.losses)
        state = create_state(params, batch_stats, optax.identity(), False, task.metrics)
        found.append(make_gradient(task, losses, changed)(state, batch))
    for other in found[1:]:
        assert other.loss == pytest.approx(float(found[0].loss), rel=1e-5)
        assert int(other.metrics["error"]["count"]) == 3 * 5
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), other.grads, found[0].grads)


@pytest.mark.thorough
def test_it_is_planned(folder, trained):
    config = config_of(folder)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices("cpu")[:4]).reshape(4, 1), ("data", "model"))
    lowered = lower(of_config(config), "train", mesh)
    compiled = lowered.program.compile()
    assert lowered.params_bytes > 100_000 and compiled.cost_analysis()["flops"] > 1e6
    assert "8x3xf32" in lowered.program.as_text()  # the shape of the batch's colours


@pytest.mark.thorough
def test_a_step_is_replayed(folder, trained):
    printed = run(folder, "replay", f"--workdir={trained[0]}", "--step=3")
    found = json.loads(printed.splitlines()[-1])
    assert len(found["losses"]) == len(found["indices"]) == 8 and np.isfinite(found["losses"]).all()


def test_what_fills_up_the_last_batch_is_zero(folder, trained):
    config = config_of(folder)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir)
    *_, last = eval_batches(dataset.split("test", MeanColour()), batch_size=4, view=View((8, 8)))
    assert last["mask"].tolist() == [True, True, True, False]
    assert last["colour"].shape == (4, 3) and not last["colour"][3].any() and not last["measured"][3]


def test_mistakes_are_one_line(folder):
    for field_, words in (
        ("--config.task.name=test_toy_task:Color", "cannot be imported"),
        ("--config.task.name=no_such_module:Colour", "cannot be imported"),
        ("--config.data.color_jitter=0.1", "changes the colours that are asked for"),
    ):
        command = ["-m", "aa_flax.train", "--config=config.py", "--workdir=wrong", field_]
        done = forked.run(*command, environment=environment(folder), cwd=folder)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
