"""Tests of a tiny detector by the commands: it trains, resumes, is evaluated, predicts and draws."""

import dataclasses
import json

import conftest
import forked
import numpy as np
import pytest
from hosts import finish, free_port
from PIL import Image
from tasks.commands import environment, run, weights_of_both
from tasks.everywhere import assert_draws_itself, assert_says_the_same_everywhere

import aa_flax
from aa_flax import data
from aa_flax.config.schema import resolve
from aa_flax.inference.sources import opened
from aa_flax.runs.metrics import TIMING, read_metrics
from aa_flax.tasks.detection import DetectionDisplay

PICTURES = {
    "learning_curves.png",
    "precision_recall.png",
    "ap_by_class.png",
    "f1_by_threshold.png",
    "kinds_of_mistakes.png",
    "mistakes.png",
    "detections.png",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("detector")
    config = conftest.detector(data_dir)
    config.model.name = "retinanet_aa_resnet18"
    config.model.options.update(attention_stages=(4,), num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(resolve(config))))
    (folder / "config.py").write_text("import json\n\ndef get_config():\n    return json.load(open('config.json'))\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """Return the run directory of the config, and the output of the command."""
    return folder / "run", run(folder, "train", "--config=config.py", "--workdir=run")


@pytest.mark.thorough
def test_what_a_run_leaves(trained):
    workdir, printed = trained
    last = json.loads(printed.splitlines()[-1])
    assert last["finished"] and last["examples"] == 7 and last["headline"] == "AP" and "raw_AP" in last
    assert {"AP", "AP50", "AP75", "AP_small", "AR100", "loss", "class_loss", "box_loss", "threshold", "F1"} <= {*last}
    assert {path.name for path in workdir.glob("*.png")} >= PICTURES
    result = json.loads((workdir / "result.json").read_text())
    assert {*result["AP_per_class"]} == {"RBC", "WBC", "Platelets"} and sum(result["mistakes"].values()) > 0
    rows = read_metrics(workdir / "metrics.jsonl")
    assert {"class_loss", "box_loss", "positives"} <= {*next(row for row in rows if row["split"] == "train")}
    # An earlier checkpoint has a threshold of its own.
    evaluated = next(row for row in rows if row["split"] == "eval")
    assert opened(workdir, checkpoint=evaluated["step"]).read_result()["threshold"] == evaluated["threshold"]
    detections = json.loads((workdir / "detections.json").read_text())
    assert {*detections[0]} == {"image_id", "category_id", "bbox", "score"}
    assert {row["category_id"] for row in detections} <= {1, 2, 3}


@pytest.mark.thorough
def test_resumed_is_the_same_bit_for_bit(folder, trained):
    weights = weights_of_both(folder)
    assert len(weights) > 40
    logs = [
        [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / each / "metrics.jsonl")]
        for each in ("run", "again")
    ]
    assert logs[0] == logs[1]
    assert (folder / "run" / "detections.json").read_text() == (folder / "again" / "detections.json").read_text()


@pytest.mark.thorough
def test_evaluated_again_it_scores_the_same(folder, trained):
    workdir, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    printed = run(folder, "evaluate", f"--workdir={workdir}", "--latency", "--report=report").splitlines()
    again = json.loads(printed[-1])
    assert again["latency_ms"] > 0
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == PICTURES - {"learning_curves.png"} | {"detections.json", "photographs.json"}
    assert again["AP"] == result["AP"] and again["AR100"] == result["AR100"]
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert [line.split()[-1] for line in printed[:3]] == [*result["AP_per_class"]]


@pytest.mark.thorough
def test_predict_takes_files_folders_and_patterns(folder, trained, data_dir):
    workdir, _ = trained
    source = data.load("bccd_subset", data_dir=data_dir).split("test")
    photos = folder / "photos"
    (photos / "deeper").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.jpg", "deeper/c d.png")):
        Image.fromarray(source[i]["image"]).save(photos / name)
    turned = Image.fromarray(source[0]["image"]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6  # is to be turned back
    turned.save(photos / "turned.png", exif=exif)
    options = ["--threshold=0.0", "--json=found.json", "--pictures=drawn", "--attention=maps"]
    printed = run(folder, "predict", f"--workdir={workdir}", *options, "photos").splitlines()
    files = [line for line in printed if line.startswith("photos")]
    assert files == ["photos/a.jpg", "photos/b.png", "photos/deeper/c d.png", "photos/turned.png"]
    found = json.loads((folder / "found.json").read_text())
    assert [*found] == files and found["photos/turned.png"] == found["photos/b.png"]
    height, width = source[0]["image"].shape[:2]
    dataset = data.load("bccd_subset", data_dir=data_dir)
    names, the_ids = dataset.class_names, dataset.category_ids
    for each in found["photos/b.png"]:
        x1, y1, x2, y2 = each["box"]
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and each["class"] in names
        assert each["category_id"] == the_ids[names.index(each["class"])]
    scores = [each["score"] for each in found["photos/b.png"]]
    assert scores == sorted(scores, reverse=True) and len(scores) > 1
    drawn = {path.name for path in (folder / "drawn").iterdir()}
    assert drawn == {f"{name}-predicted.png" for name in ("a", "b", "c d", "turned")}
    assert len([*(folder / "maps").iterdir()]) == 4
    by_pattern = run(folder, "predict", f"--workdir={workdir}", "photos/*.png", "photos/b.png").splitlines()
    assert [line for line in by_pattern if line.startswith("photos")] == ["photos/b.png", "photos/turned.png"]
    assert any("nothing with a score of" in line for line in by_pattern) or len(by_pattern) > 4
    (folder / "empty").mkdir()
    run(folder, "predict", f"--workdir={workdir}", "empty", "none*.jpg", "photos/a.jpg", code=1)


@pytest.mark.slow  # as those of test_masked_run
def test_a_hub_and_python_say_what_the_command_says(trained, data_dir, tmp_path, monkeypatch):
    photos = [str(tmp_path / name) for name in ("wide.png", "high.png")]
    pixels = data.load("bccd_subset", data_dir=data_dir).split("test")[0]["image"]
    for photo, part in zip(photos, (pixels[:150], pixels[:, :150]), strict=True):
        Image.fromarray(part).save(photo)
    wide, high = assert_says_the_same_everywhere(trained[0], photos, tmp_path, monkeypatch, threshold=0.0)
    assert type(wide).__name__ == "Detections" and len(wide) > 1 and wide.masks is None
    for said, size in ((wide, (pixels.shape[1], 150)), (high, (150, pixels.shape[0]))):
        assert (said.boxes >= 0).all() and (said.boxes <= [*size, *size]).all()
        assert [each.name for each in said] == said.names and {*said.names} <= {"RBC", "WBC", "Platelets"}
        assert (np.diff(said.scores) <= 0).all() and said.photo.shape == (*size[::-1], 3)
    assert_draws_itself(wide, tmp_path)
    predictor = aa_flax.load(trained[0])
    result = json.loads((trained[0] / "result.json").read_text())
    # Where nothing right was found no threshold is best.
    assert predictor.display.threshold == (result["threshold"] if result["F1"] else DetectionDisplay().threshold)
    (maps,) = predictor.attention_maps(photos[0], queries=[(20, 30)]).values()
    assert maps.shape[:3] == (1, 2, 1) and {*predictor.features(photos)} == {"p3", "p4", "p5"}


@pytest.mark.thorough
def test_a_sheet_of_boxes(folder):
    run(folder, "sheet", "--config=config.py", "--out=sheet.png", "--rows=3", "--columns=2")
    assert (folder / "sheet.png").stat().st_size > 10_000


@pytest.mark.slow  # test_masked_run has detections of two processes, test_hosts a training
def test_two_processes_reach_what_one_reaches(folder, trained):
    """The last batch of seven photographs is filled up in both processes; each photograph is scored once."""
    workdir, _ = trained
    port, processes = free_port(), []
    for index in range(2):
        variables = {
            "AA_FLAX_COORDINATOR": f"localhost:{port}",
            "AA_FLAX_PROCESS_COUNT": "2",
            "AA_FLAX_PROCESS_INDEX": str(index),
        }
        arguments = ["--config=config.py", "--config.eval_batch_size=4", "--config.parallel.fsdp=true", "--workdir=two"]
        command = ["-m", "aa_flax.train", *arguments]
        processes.append(forked.start(*command, environment=environment(folder, **variables), cwd=folder, both=True))
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (json.loads((path / "result.json").read_text()) for path in (workdir, folder / "two"))
    assert one["examples"] == two["examples"] == 7
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    # The same network is scored the same on two processes and on one, to the last digit.
    alone = json.loads(run(folder, "evaluate", "--workdir=two").splitlines()[-1])
    assert alone["AP"] == pytest.approx(two["AP"], abs=1e-3)
