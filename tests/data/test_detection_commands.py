"""Tests of prepare, check and shrink of data sets of detection."""

import json
import re

import forked
import numpy as np
import pytest
from photo_sets import photos, write_coco

from aa_flax.data import Boxes, DataError, load
from aa_flax.data.__main__ import _annotated
from aa_flax.data.check import check
from aa_flax.data.datasets import locate
from aa_flax.data.masks import mask_of
from aa_flax.data.sets.coco_json import CocoJson
from aa_flax.data.sets.own import prepare
from aa_flax.data.shrink import Shrunk


def opened(tmp_path, change=None, **made):
    folder = write_coco(tmp_path / "it", photos(**made), change=change)
    return load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=folder)


def test_nothing_is_wrong(tmp_path):
    dataset = opened(tmp_path, train=9)
    report = check(dataset.folder)
    assert report.findings == [] and report.read == 12
    empty = sum(not len(truth.objects) for split in ("train", "val") for truth in dataset.truths(split))
    assert report.empty == empty > 1 and str(report).endswith(f"; {empty} images without objects")


def test_objects_without_a_mask_are_counted_and_masks_are_drawn(tmp_path, capsys):
    def change(split, document):
        document["annotations"][0]["segmentation"] = []

    dataset = opened(tmp_path, change)
    assert "objects without a mask, kept for their boxes: 2 (object 101 of train" in capsys.readouterr().err
    source, truths = dataset.split("train", Boxes()), dataset.truths("train")
    for place, truth in enumerate(truths):
        drawn = _annotated(source, place, dataset)
        kept = ~truth.crowd
        np.testing.assert_allclose(drawn.boxes, truth.boxes[kept], rtol=1e-6)
        texts = truth.objects.some(kept).segmentations
        assert [mask.any() for mask in drawn.masks or ()] == [bool(text) for text in texts]


def test_a_class_without_examples_and_a_split_without_annotations(tmp_path):
    def change(split, document):
        if split == "val":
            return {"images": document["images"]}
        document["categories"].append({"id": 12, "name": "dog"})
        return document

    report = check(opened(tmp_path, change, train=9).folder)
    assert len(report.findings) == 1 and "split 'train' has no example of class 'dog'" in report.findings[0]
    assert str(report).endswith("; 3 images without objects")  # of train


def test_photographs_in_two_splits(tmp_path):
    """Among all of them, however few are looked at."""
    made = photos(train=9)
    for one, other in ((1, 0), (7, 2)):
        made["val"][other].color, made["val"][other].size = made["train"][one].color, made["train"][one].size
        made["val"][other].objects = made["train"][one].objects
    dataset = load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=write_coco(tmp_path / "it", made))
    names = {split: [truth.file_name for truth in dataset.truths(split)] for split in made}
    for sample in (None, 1):
        (line,) = (line for line in check(dataset.folder, sample).findings if "no example of class" not in line)
        assert line.startswith(f"{dataset.folder}: the same photograph is in 'train' and in 'val': 2 (")
        for one, other in (("train1.jpg", "val0.jpg"), ("train7.jpg", "val2.jpg")):
            assert f"example {names['train'].index(one)} = {names['val'].index(other)}" in line


def test_the_name_of_a_kind_alone(tmp_path):
    opened(tmp_path)
    for name in ("coco_json", "coco_json/", "yolo", "voc/"):
        there = f"; prepared in {tmp_path}/tfds: coco_json/it" if name.startswith("coco") else ""
        kind = name.rstrip("/")
        with pytest.raises(DataError, match=f"^{name}: give your data set a name of its own, such as {kind}/flowers"):
            locate(name, tmp_path / "tfds")
        with pytest.raises(DataError, match=f"flowers{re.escape(there)}$"):
            load(name, data_dir=tmp_path / "tfds")
    with pytest.raises(DataError, match="voc is not prepared .* catalogue: .*; of photographs of your own, voc/NAME"):
        locate("voc", tmp_path / "tfds")


@pytest.mark.parametrize(
    ("box", "finding"),
    [
        ([100, 2, 105, 9], r"object 0 lies outside the image of \d+ × \d+: 100, 2, 105, 9"),
        ([-7, 2, 0, 9], "object 0 lies outside the image"),
        ([3, 4, 3, 9], "object 0 has a box without area, 3, 4, 3, 9"),
        ([9, 4, 3, 9], r"object 0 has the box \[9.0, 4.0, 3.0, 9.0\], expected x1 ≤ x2 and y1 ≤ y2"),
        ([9, 4, float("nan"), 9], r"object 0 has the box"),
    ],
)
def test_boxes_that_another_program_has_stored(tmp_path, box, finding, monkeypatch):
    monkeypatch.setattr("aa_flax.data.sets.detection.check_boxes", lambda data, findings: None)
    origin = CocoJson("coco_json/it", write_coco(tmp_path / "it", photos(train=9)))
    photo = origin.photos("train")[1]
    photo.objects[0].box = tuple(map(float, box))
    folder = prepare(origin, tmp_path / "tfds")
    (found,) = (line for line in check(folder).findings if "no example of class" not in line)
    names = [truth_name(record) for record in load("coco_json/it", data_dir=tmp_path / "tfds").split("train")._records]
    assert f"-00000-of-00001: example {names.index('train1.jpg')} of aa_coco_json_it[train]: object 0" in found
    assert re.search(finding, found)


def truth_name(record):
    return bytes(record["image/filename"]).decode()


def test_shrunk_with_its_boxes(tmp_path):
    def change(split, document):
        """Every other mask is of run lengths: all of its photograph but the last column."""
        sizes = {image["id"]: [image["height"], image["width"]] for image in document["images"]}
        for annotation in document["annotations"][::2]:
            height, width = size = sizes[annotation["image_id"]]
            annotation["segmentation"] = {"counts": [0, height * (width - 1), height], "size": size}

    before = opened(tmp_path, change, train=9)
    origin = Shrunk(before.folder, 25, 90)
    prepare(origin, tmp_path / "tfds")
    after = load(origin.stored_name, data_dir=tmp_path / "tfds")
    assert origin.stored_name == "aa_coco_json_it_side25"
    assert (after.splits, after.class_names, after.category_ids) == (
        before.splits,
        before.class_names,
        before.category_ids,
    )
    smaller = masks = 0
    for split in before.splits:
        records = before.split(split), after.split(split)
        for index, (one, other) in enumerate(zip(before.truths(split), after.truths(split), strict=True)):
            assert (one.image_id, one.file_name) == (other.image_id, other.file_name)
            assert min(other.height, other.width) == min(25, one.height, one.width)
            smaller += other.height < one.height
            x, y = other.width / one.width, other.height / one.height
            np.testing.assert_allclose(other.objects.boxes, one.objects.boxes * [x, y, x, y], rtol=1e-15)
            np.testing.assert_allclose(other.objects.area, one.objects.area * x * y, rtol=1e-14)
            for name in ("labels", "crowd", "ids"):
                np.testing.assert_array_equal(getattr(other.objects, name), getattr(one.objects, name))
            texts = [source.record(index)["objects"]["segmentation"] for source in records]
            for stored, moved in zip(*texts, strict=True):
                if isinstance(json.loads(stored), dict):
                    pixels = mask_of(moved, (other.height, other.width)).pixels()
                    seen = np.arange(1, other.width + 1) - 0.5 < (one.width - 1) * x
                    np.testing.assert_array_equal(pixels, np.broadcast_to(seen, pixels.shape))
                    masks += (x, y) != (1, 1)
                else:
                    wanted = np.array(json.loads(stored)) * ([x, y] * 3) if stored.startswith(b"[[") else None
                    assert wanted is None or np.allclose(json.loads(moved), wanted, rtol=1e-12)
    assert smaller > 5 and masks > 1
    assert after._prepared.metadata["without_mask"] == before._prepared.metadata["without_mask"]
    assert after.is_annotated("train") and check(after.folder).findings == []


def test_the_command(tmp_path):
    def command(*arguments):
        done = forked.run("-m", "aa_flax.data", *arguments, f"--data_dir={tmp_path}/tfds")
        return done.returncode, done.stdout, done.stderr

    folder = write_coco(tmp_path / "it", photos())
    (folder / "train2017/train0.jpg").unlink()
    code, out, err = command("prepare", "coco_json/it", f"--source_dir={folder}")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "are missing: 'train0.jpg' (no " in err
    code, out, err = command("prepare", "coco_json/it", f"--source_dir={folder}", "--skip_damaged")
    assert (code, out) == (0, f"{tmp_path}/tfds/aa_coco_json_it/1.0.0: train 4, val 3; 3 classes\n")
    assert "missing images, left out: 1" in err
