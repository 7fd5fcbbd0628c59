"""Tests of a tiny segmentation network by the commands: it trains, resumes, is evaluated, predicts and draws."""

import functools
import json

import forked
import numpy as np
import pytest
from hosts import finish, free_port
from label_sets import NAMES, labelled, write_labelled
from PIL import Image
from tasks.commands import environment, run, weights_of_both
from tasks.everywhere import assert_draws_itself, assert_says_the_same_everywhere
from tasks.several_hosts import BY_COUNT, assert_same_scores, score

from aa_flax.data.photo import read_photo
from aa_flax.runs.metrics import TIMING, read_metrics
from experiments import segmenter_report

PICTURES = {
    "learning_curves.png",
    "confusion_matrix.png",
    "iou_by_class.png",
    "segments.png",
    "worst.png",
    "attention_maps.png",
    "attention_maps_pooling.png",
}
CONFIG = """
from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.epochs, config.batch_size, config.eval_batch_size = 2, 4, 3
    config.log_every_steps = 1
    config.task.name = "segmentation"
    config.model.name = "upernet_aa_resnet18"
    config.model.options = dict(width=4, blocks=(1, 1, 1, 1), head_width=8, auxiliary_width=8, batch_norm_momentum=0.8)
    config.model.options.update(presence_head=True, presence_width=8)
    config.model.options.update(attention_stages=(4,), num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)
    config.data.name, config.data.source_dir, config.data.data_dir = "label_folder/tiny", "tiny", "tfds"
    config.data.eval_split = "val"
    config.data.crop, config.data.image_size = "scaled", (32, 40)
    config.optimizer.learning_rate = 0.01
    config.optimizer.ema_decay = 0.9
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    write_labelled(folder / "tiny", labelled(train=10, val=7), "camvid", classes="colours")
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
    assert last["finished"] and last["examples"] == 7 and last["headline"] == "mIoU" and "raw_mIoU" in last
    assert {path.name for path in workdir.glob("*.png")} == PICTURES
    result = json.loads((workdir / "result.json").read_text())
    assert [*result["IoU_per_class"]] == [*NAMES] == [*result["accuracy_per_class"]]
    counts = np.array(result["confusion"])
    photos = labelled(train=10, val=7)["val"]
    assert counts.sum() == sum((each.values < 3).sum() for each in photos)  # at their own sizes, each once
    assert counts.sum(1).tolist() == [sum((each.values == k).sum() for each in photos) for k in range(3)]
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert result["mIoU"] == pytest.approx(iou.mean()) and 0 < result["mIoU"] < 1
    rows = read_metrics(workdir / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    assert all({"main_loss", "auxiliary_loss", "presence_loss", "pixel_accuracy"} <= {*row} for row in train)
    for row in train:
        parts = row["main_loss"] + 0.4 * row["auxiliary_loss"] + 0.2 * row["presence_loss"]
        assert row["loss"] == pytest.approx(parts, rel=1e-4)


@pytest.mark.thorough
def test_resumed_is_the_same_bit_for_bit(folder, trained):
    weights = weights_of_both(folder)
    assert len(weights) > 40
    logs = [
        [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / each / "metrics.jsonl")]
        for each in ("run", "again")
    ]
    assert logs[0] == logs[1]


@pytest.mark.thorough
def test_evaluated_again_it_scores_the_same(folder, trained):
    workdir, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    printed = run(folder, "evaluate", f"--workdir={workdir}", "--report=report").splitlines()
    again = json.loads(printed[-1])
    assert {path.name for path in (folder / "report").iterdir()} == PICTURES - {"learning_curves.png"}
    assert again["mIoU"] == result["mIoU"] and again["pixel_accuracy"] == result["pixel_accuracy"]
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert [line.partition("%")[2].strip() for line in printed[:3]] == [*NAMES]
    other = json.loads(run(folder, "evaluate", f"--workdir={workdir}", "--option=flip=True").splitlines()[-1])
    assert other["pixel_accuracy"] != again["pixel_accuracy"]  # of the mean with what the mirrored photograph gives
    assert other["loss"] == again["loss"]  # of the view that is not mirrored


@pytest.mark.thorough
def test_predict_gives_label_maps_of_the_photographs_sizes(folder, trained):
    workdir, _ = trained
    photo = folder / "tiny" / "val" / "val0.jpg"
    height, width = np.asarray(read_photo(str(photo), 3)).shape[:2]
    options = ["--json=found.json", "--pictures=drawn", "--masks=drawn", "--attention=maps"]
    printed = run(folder, "predict", f"--workdir={workdir}", *options, str(photo)).splitlines()
    assert printed[0] == str(photo) and "%" in printed[1]
    said = json.loads((folder / "found.json").read_text())[str(photo)]
    assert (said["height"], said["width"]) == (height, width)
    assert {path.name for path in (folder / "drawn").iterdir()} == {"val0-predicted.png", "val0-masks.png"}
    assert [path.name for path in (folder / "maps").iterdir()] == ["val0-attention.png"]
    picture = Image.open(folder / "drawn" / "val0-masks.png")
    labels = np.asarray(picture)
    assert picture.mode == "P" and labels.shape == (height, width)
    counts = {each["label"]: each["pixels"] for each in said["classes"]}
    assert counts == {k: int((labels == k).sum()) for k in range(3) if (labels == k).any()}
    larger = run(folder, "predict", f"--workdir={workdir}", "--image_size=48x56", "--least_part=0", str(photo))
    assert len(larger.splitlines()) > 1


@pytest.mark.thorough
def test_a_hub_and_python_say_what_the_command_says(folder, trained, tmp_path, monkeypatch):
    photo = str(folder / "tiny" / "val" / "val1.jpg")
    (said,) = assert_says_the_same_everywhere(trained[0], [photo], tmp_path, monkeypatch)
    assert said.labels.shape == said.photo.shape[:2] and said.names == NAMES
    assert sum(said.parts.values()) == pytest.approx(1) and {*said.parts} <= {*NAMES}
    assert all(
        mask.dtype == bool and mask.mean() == pytest.approx(said.parts[name]) for name, mask in said.masks.items()
    )
    assert_draws_itself(said, tmp_path)


@pytest.mark.thorough
def test_the_table_of_compared_runs(folder, trained):
    workdir, _ = trained
    (folder / "run.commit").write_text("0123456789\n")
    measured = segmenter_report.collect([("plain", 3, workdir), ("aa", 3, workdir)], "the command")
    result = json.loads((workdir / "result.json").read_text())
    table = segmenter_report.table(measured).splitlines()
    assert table[2].startswith("| `plain` |") and f"| {result['mIoU']:.3f} | {result['mIoU']:.3f} |" in table[3]
    assert f"| {NAMES[2]} | " + " | ".join([f"{result['IoU_per_class'][NAMES[2]]:.3f}"] * 2) + " |" in table
    segmenter_report.draw(measured, folder / "curves.png")
    assert (folder / "curves.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_a_sheet_of_labels(folder):
    run(folder, "sheet", "--config=config.py", "--out=sheet.png", "--rows=3", "--columns=2")
    assert (folder / "sheet.png").stat().st_size > 10_000


@pytest.mark.slow  # each process compiles its own programs; the counts are merged in test_segmentation too
def test_two_processes_reach_what_one_reaches(folder, trained):
    """The last batch of seven photographs is filled up in both processes; each is counted once, here by windows."""
    workdir, _ = trained
    port, processes = free_port(), []
    for index in range(2):
        variables = {
            "AA_FLAX_COORDINATOR": f"localhost:{port}",
            "AA_FLAX_PROCESS_COUNT": "2",
            "AA_FLAX_PROCESS_INDEX": str(index),
        }
        views = ["--config.task.options.window=24", "--config.task.options.flip=true"]
        command = ["-m", "aa_flax.train", "--config=config.py", "--config.eval_batch_size=4", *views, "--workdir=two"]
        processes.append(forked.start(*command, environment=environment(folder, **variables), cwd=folder, both=True))
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (json.loads((path / "result.json").read_text()) for path in (workdir, folder / "two"))
    assert one["examples"] == two["examples"] == 7
    assert np.sum(one["confusion"], 1).tolist() == np.sum(two["confusion"], 1).tolist()
    losses = [
        [row["loss"] for row in read_metrics(path / "metrics.jsonl") if row["split"] == "train"]
        for path in (workdir, folder / "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    # The same network is scored the same on two processes and on one: pixels near a tie may change.
    alone = json.loads(run(folder, "evaluate", "--workdir=two").splitlines()[-1])
    assert alone["mIoU"] == pytest.approx(two["mIoU"], abs=1e-3)


@pytest.fixture(scope="module")
def scored(folder, trained):
    """Return the function from a number of processes to what they find by windows, mirrored too."""
    return functools.cache(lambda count: score(count, folder, trained[0], "val", 4, window=24, flip=True))


@pytest.mark.parametrize("count", BY_COUNT)
def test_several_processes_count_what_one_counts(scored, count):
    """Seven photographs, four at a time, of which the last process has one less."""
    assert_same_scores(scored(count), scored(1))
    index = [state["photos"][:, 0].tolist() for state in scored(count).states]
    assert index == {2: [[0, 1, 4, 5], [2, 3, 6]], 4: [[0, 4], [1, 5], [2, 6], [3]]}[count]
    photos = np.concatenate([state["photos"] for state in scored(count).states])
    np.testing.assert_array_equal(photos[np.argsort(photos[:, 0])], scored(1).states[0]["photos"])
