"""Tests of a tiny Faster R-CNN by the commands, and of what its losses do in training."""

import dataclasses
import functools
import json

import conftest
import forked
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hosts import finish, free_port
from PIL import Image
from tasks.commands import environment, run, weights_of_both
from tasks.everywhere import assert_says_the_same_everywhere
from tasks.several_hosts import assert_same_scores, score
from tasks.test_detection import CANVAS
from tasks.test_two_stage import LOSSES, TINY, two_stage

from aa_flax import data
from aa_flax.analysis.programs import lower, of_config
from aa_flax.config.schema import resolve
from aa_flax.evaluation.detection_rows import merged
from aa_flax.runs.metrics import read_metrics
from aa_flax.tasks.region_losses import SampledRegions, region_losses
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout

pytestmark = pytest.mark.slow  # test_masked_run has a Faster R-CNN within

LEARNING = dict(frozen_norms=False, batch_norm_epsilon=1e-5, batch_norm_momentum=0.8, fpn_norm=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("two_stage")
    config = conftest.detector(data_dir)
    config.model.name = "faster_rcnn_aw_resnet18"
    config.model.options = {**TINY, **LEARNING, "score_threshold": 0.0}
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(resolve(config))))
    (folder / "config.py").write_text("import json\n\ndef get_config():\n    return json.load(open('config.json'))\n")
    return folder


@pytest.fixture(scope="module")
def result(folder):
    """Return the result of a run in the directory "run"."""
    return json.loads(run(folder, "train", "--config=config.py", "--workdir=run").splitlines()[-1])


def test_what_a_run_leaves(folder, result):
    assert result["finished"] and result["examples"] == 7 and {"AP", "loss", *LOSSES} <= {*result}
    assert result["loss"] == pytest.approx(sum(result[name] for name in LOSSES))
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert {*LOSSES, "positives"} <= {*next(row for row in rows if row["split"] == "train")}
    assert (folder / "run" / "detections.png").exists()


def test_resumed_is_the_same_bit_for_bit(folder, result):
    weights = weights_of_both(folder)
    assert len(weights) > 40
    found = [(folder / name / "detections.json").read_text() for name in ("run", "again")]
    assert found[0] == found[1] and len(found[0]) > 100


def test_it_is_evaluated_and_predicts(folder, result, data_dir):
    again = json.loads(run(folder, "evaluate", "--workdir=run").splitlines()[-1])
    assert again["AP"] == result["AP"] and again["AR100"] == result["AR100"]
    assert [again[name] for name in LOSSES] == pytest.approx([result[name] for name in LOSSES], rel=1e-5)
    photo = data.load("bccd_subset", data_dir=data_dir).split("test")[0]["image"][:, :200]  # leaves padding
    Image.fromarray(photo).save(folder / "a.png")
    run(folder, "predict", "--workdir=run", "--threshold=0.0", "--json=found.json", "a.png")
    (found,) = json.loads((folder / "found.json").read_text()).values()
    boxes = np.array([each["box"] for each in found])
    assert len(found) > 10 and (boxes >= 0).all() and (boxes <= [200, len(photo)] * 2).all()


def test_a_hub_and_python_say_what_the_command_says(folder, result, data_dir, tmp_path, monkeypatch):
    photo = str(tmp_path / "a.png")
    Image.fromarray(data.load("bccd_subset", data_dir=data_dir).split("test")[1]["image"][:150]).save(photo)
    (said,) = assert_says_the_same_everywhere(folder / "run", [photo], tmp_path, monkeypatch, threshold=0.0)
    assert len(said) > 10 and said.masks is None


def test_two_processes_reach_what_one_reaches(folder, result):
    """The last batch of seven photographs is filled up in both processes; each photograph is scored once."""
    port, processes = free_port(), []
    for index in range(2):
        variables = {
            "AA_FLAX_COORDINATOR": f"localhost:{port}",
            "AA_FLAX_PROCESS_COUNT": "2",
            "AA_FLAX_PROCESS_INDEX": str(index),
        }
        command = ["-m", "aa_flax.train", "--config=config.py", "--config.eval_batch_size=4", "--workdir=two"]
        processes.append(forked.start(*command, environment=environment(folder, **variables), cwd=folder, both=True))
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    two = json.loads((folder / "two" / "result.json").read_text())
    assert two["examples"] == result["examples"] == 7
    assert two["loss"] == pytest.approx(result["loss"], rel=1e-2)
    # The same network is scored the same on two processes and on one.
    alone = json.loads(run(folder, "evaluate", "--workdir=two").splitlines()[-1])
    assert alone["AP"] == pytest.approx(two["AP"], abs=1e-3)
    assert [alone[name] for name in LOSSES] == pytest.approx([two[name] for name in LOSSES], rel=1e-3)


@pytest.fixture(scope="module")
def scored(folder, result):
    """Return the function from a number of processes to what they find."""
    return functools.cache(lambda count: score(count, folder, folder / "run", "test[:7]", 4))


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_find_what_one_finds(scored, count):
    """Seven photographs, four at a time, of which the last process has one less."""
    assert_same_scores(scored(count), scored(1))
    index = [state["index"].tolist() for state in scored(count).states]
    assert index == {2: [[0, 1, 4, 5], [2, 3, 6]], 4: [[0, 4], [1, 5], [2, 6], [3]]}[count]
    (alone,) = scored(1).states
    assert len(alone["scores"]) > 20
    np.testing.assert_equal(merged(scored(count).states), alone)


def test_every_loss_falls():
    """Rectangles in the colour of their class are learnt; the last steps are compared with the first."""
    rng = np.random.default_rng(7)
    the_task = two_stage(
        model={**LEARNING, "box_samples": 32, "width": 8, "fpn_width": 16, "rpn_width": 16, "box_head_width": 32},
        data={"flip": False},
        optimizer={"name": "adamw", "weight_decay_mode": "decoupled", "learning_rate": 1e-2},
        epochs=20,
    )
    boxes, classes, pixels = np.zeros((4, 5, 4), np.float32), np.zeros((4, 5), np.int32), np.zeros((4, *CANVAS, 3))
    for i in range(4):
        for j in range(3):
            x, y = rng.uniform(0, 12) + (0, 20, 40)[j], rng.uniform(0, 26)
            boxes[i, j] = x, y, x + rng.uniform(8, 14), y + rng.uniform(8, 22)
            classes[i, j] = rng.integers(3)
            x1, y1, x2, y2 = boxes[i, j].round().astype(int)
            pixels[i, y1:y2, x1:x2, classes[i, j]] = 255
    batch = {
        "image": jnp.asarray(pixels, jnp.uint8),
        "boxes": jnp.asarray(boxes),
        "classes": jnp.asarray(classes),
        "valid": jnp.asarray(np.broadcast_to(np.arange(5) < 3, (4, 5))),
        "placement": jnp.asarray(np.tile(np.float32([0, 0, 64, 48, 48, 64, 48, 64]), (4, 1))),
    }
    layout = Layout.of(the_task.config, jax.devices()[:1])
    program = Program.of(the_task.config, the_task.preprocessing, layout, 10, task=the_task)
    images, targets, _ = the_task.prepare(batch, jax.random.key(0))
    near = targets["boxes"][:, :3] + jnp.asarray(rng.uniform(-1.5, 1.5, (4, 3, 4)), jnp.float32)
    regions = SampledRegions(*(jnp.broadcast_to(jnp.arange(3), (4, 3)),) * 2, near)

    def of_boxes(model):
        """Return the mean loss of boxes of regions near the objects, always the same ones."""
        outputs = model.box_outputs(model.features(images, train=False), near)
        return float(region_losses(the_task._network, outputs, regions, targets)[1].mean())

    def network():
        return program.model(jax.device_get((state.params, state.batch_stats)))

    state, sums = program.new_state(), []
    before = of_boxes(network())
    for _ in range(program.total_steps):
        state = program.train_step(state, batch)
        sums.append({name: float(each["sum"]) for name, each in state.window["metrics"].items()})
    assert int(state.skipped) == 0
    falls = {name: np.diff([0, *(each[name] for each in sums)]) for name in LOSSES}
    # That of boxes rises, as fewer of the regions are the objects themselves and more are proposals near them.
    for name in LOSSES[:3]:
        assert falls[name][-10:].mean() < 0.5 * falls[name][:10].mean(), name
    assert of_boxes(network()) < 0.75 * before


def test_a_step_is_planned_for_four_devices(folder):
    """Each device draws of its own images alone: of what is not summed up, nothing of an image's travels."""
    config = resolve(json.loads((folder / "config.json").read_text()))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices("cpu")[:4]).reshape(4, 1), ("data", "model"))
    lowered = lower(of_config(config), "train", mesh)
    text = lowered.program.compile().as_text()
    assert lowered.params_bytes > 10_000 and "all-reduce" in text and "all-gather" not in text
