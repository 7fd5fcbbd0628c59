"""Tests of a tiny Mask R-CNN by the commands: it trains, resumes, is scored, writes, draws and predicts masks."""

import dataclasses
import functools
import json

import conftest
import numpy as np
import pytest
from PIL import Image
from tasks.commands import run, weights_of_both
from tasks.everywhere import assert_draws_itself, assert_says_the_same_everywhere
from tasks.several_hosts import BY_COUNT, assert_same_scores, score
from tasks.test_two_stage import TINY
from tasks.test_two_stage_run import LEARNING

from aa_flax.config.schema import resolve
from aa_flax.data.masks import from_values
from aa_flax.evaluation.detection_rows import merged
from aa_flax.runs.metrics import read_metrics

pytestmark = pytest.mark.thorough

SIZE = 48, 60


def write_discs(folder, count, seed):
    """Write photographs of bright discs and squares in COCO's form."""
    rng, images, annotations = np.random.default_rng(seed), [], []
    (folder / "images").mkdir(parents=True)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for number in range(1, count + 1):
        pixels = rng.integers(0, 60, (*SIZE, 3), np.uint8)
        for _ in range(2):
            label, radius = int(rng.integers(2)), rng.uniform(6, 11)
            x, y = rng.uniform(radius, SIZE[1] - radius), rng.uniform(radius, SIZE[0] - radius)
            corners = 24 if label else 4
            angles = 2 * np.pi * (np.arange(corners) + 0.5) / corners
            outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2)
            inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2 / (1 if label else 2)
            pixels[inside] = (230, 40, 200) if label else (40, 230, 60)
            (left, top), (right, bottom) = outline.min(0), outline.max(0)
            box, area = [left, top, right - left, bottom - top], float(inside.sum())
            polygon = outline.reshape(-1).tolist()
            row = dict(id=len(annotations) + 1, image_id=number, category_id=3 + label, bbox=[*map(float, box)])
            annotations.append(dict(**row, area=area, iscrowd=0, segmentation=[polygon]))
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append(dict(id=number, file_name=name, height=SIZE[0], width=SIZE[1]))
    categories = [dict(id=3, name="square"), dict(id=4, name="disc")]
    document = dict(images=images, annotations=annotations, categories=categories)
    (folder / "train.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    write_discs(folder / "discs", 12, 0)
    config = conftest.detector(str(folder / "tfds"))
    config.model.name = "mask_rcnn_resnet18"
    heads = dict(mask_head_width=8, mask_head_depth=1, mask_region_size=7, max_detections=5)
    config.model.options = {**TINY, **LEARNING, **heads, "score_threshold": 0.0}
    config.data.name, config.data.source_dir = "coco_json/discs", str(folder / "discs")
    config.data.train_split, config.data.eval_split = "train[:8]", "train[8:]"
    config.task.options = {"most_objects": 4}
    config.optimizer.ema_decay = 0.0
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(resolve(config))))
    (folder / "config.py").write_text("import json\n\ndef get_config():\n    return json.load(open('config.json'))\n")
    return folder


@pytest.fixture(scope="module")
def result(folder):
    """Return the result of a run in the directory "run"."""
    return json.loads(run(folder, "train", "--config=config.py", "--workdir=run").splitlines()[-1])


def test_what_a_run_leaves(folder, result):
    assert result["finished"] and result["headline"] == "mask_AP" and result["examples"] == 4
    assert {"AP", "mask_AP", "mask_AP50", "mask_AR100", "mask_AP_small"} <= {*result} and "mask_loss" not in result
    saved = json.loads((folder / "run" / "result.json").read_text())
    assert [*saved["mask_AP_per_class"]] == [*saved["mask_AP50_per_class"]] == ["square", "disc"]
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    of_training = next(row for row in rows if row["split"] == "train")
    assert 0.4 < of_training["mask_loss"] < 2  # about log 2, what is chance
    boxes, masks = (json.loads((folder / "run" / name).read_text()) for name in ("detections.json", "masks.json"))
    assert len(boxes) == len(masks) > 4 and {*masks[0]} == {"image_id", "category_id", "segmentation", "score"}
    assert "segmentation" not in boxes[0] and [row["score"] for row in boxes] == [row["score"] for row in masks]
    assert all(from_values(row["segmentation"]).size == SIZE for row in masks)
    assert (folder / "run" / "detections.png").exists()


def test_resumed_is_the_same_bit_for_bit(folder, result):
    weights = weights_of_both(folder)
    assert any(name.startswith("mask_head") for name in weights)
    found = [(folder / name / "masks.json").read_text() for name in ("run", "again")]
    assert found[0] == found[1]


def test_it_is_evaluated_and_predicts(folder, result):
    printed = run(folder, "evaluate", "--workdir=run").splitlines()
    again = json.loads(printed[-1])
    assert {name: again[name] for name in result if name.startswith("mask_A")} == {
        name: result[name] for name in result if name.startswith("mask_A")
    }
    assert printed[0].split() == ["boxes", "masks"] and printed[1].endswith("square")
    photo = np.asarray(Image.open(folder / "discs/images/1.png"))[:, :50]  # leaves padding
    Image.fromarray(photo).save(folder / "a.png")
    options = ["--threshold=0.0", "--json=found.json", "--pictures=drawn", "--masks=numbers"]
    lines = run(folder, "predict", "--workdir=run", *options, "a.png").splitlines()
    assert lines[-1] == "  masks: numbers/a-masks.png" and (folder / "drawn/a-predicted.png").exists()
    (found,) = json.loads((folder / "found.json").read_text()).values()
    masks = [from_values(each["segmentation"]) for each in found]
    assert len(found) > 1 and all(mask.size == (48, 50) for mask in masks)
    numbers = np.asarray(Image.open(folder / "numbers/a-masks.png"))
    expected = np.zeros((48, 50), int)
    for number in range(len(masks), 0, -1):
        expected[masks[number - 1].pixels()] = number
    np.testing.assert_array_equal(numbers, expected)
    for each, mask in zip(found, masks, strict=True):
        rows, columns = np.nonzero(mask.pixels())
        x1, y1, x2, y2 = each["box"]
        assert not len(rows) or (
            columns.min() >= x1 - 1 and columns.max() < x2 and rows.min() >= y1 - 1 and rows.max() < y2
        )


def test_a_hub_and_python_say_what_the_command_says(folder, result, tmp_path, monkeypatch):
    photo = str(tmp_path / "a.png")
    Image.fromarray(np.asarray(Image.open(folder / "discs/images/2.png"))[:40]).save(photo)
    (said,) = assert_says_the_same_everywhere(folder / "run", [photo], tmp_path, monkeypatch, threshold=0.0)
    assert len(said) > 1 and said.masks.dtype == bool and said.masks.shape == (len(said), 40, SIZE[1])
    for each, values in zip(said, said.values, strict=True):
        np.testing.assert_array_equal(each.mask, from_values(values["segmentation"]).pixels())
    assert said[-1].score == said.scores[-1] and said[0].name == said.names[0]
    with pytest.raises(IndexError):
        said[len(said)]
    assert_draws_itself(said, tmp_path)


def test_a_sheet_of_masks(folder):
    run(folder, "sheet", "--config=config.py", "--out=sheet.png", "--rows=3", "--columns=2")
    assert (folder / "sheet.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def scored(folder, result):
    """Return the function from a number of processes to what they find."""
    return functools.cache(lambda count: score(count, folder, folder / "run", "train[:11]", 8))


@pytest.mark.parametrize("count", BY_COUNT)
def test_several_processes_find_the_masks_that_one_finds(scored, count):
    """Of eleven photographs, eight at a time, the last processes have none in the second batch."""
    assert_same_scores(scored(count), scored(1))
    index = [state["index"].tolist() for state in scored(count).states]
    assert index == {2: [[0, 1, 2, 3, 8, 9, 10], [4, 5, 6, 7]], 4: [[0, 1, 8, 9], [2, 3, 10], [4, 5], [6, 7]]}[count]
    (alone,) = scored(1).states
    assert len(alone["mask_lengths"]) == len(alone["scores"]) > 20 and "masks" not in alone
    np.testing.assert_equal(merged(scored(count).states), alone)
