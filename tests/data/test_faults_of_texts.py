"""Tests of what is found wrong in Pascal VOC's XML and in YOLO's text files, all at once, by file and number."""

import re

import numpy as np
import pytest
from photo_sets import Made, photos, write_voc, write_yolo

from aa_flax.data import DataError
from aa_flax.data.sets.voc import Voc
from aa_flax.data.sets.yolo import Yolo


def test_faults_of_xml(tmp_path):
    made = photos(train=9)
    made["train"][1].objects = [(0, 9, 3, 4, 8)]
    made["train"][2].objects = [(0, 900, 3, 904, 8)]
    made["val"][1].objects = [(0, float("inf"), 3, 904, 8)]
    folder = write_voc(tmp_path / "boxes", made)
    with pytest.raises(DataError) as error:
        Voc("voc/it", folder)
    for name, what in (("train1", "negative"), ("train2", "lies outside"), ("val1", "expected finite numbers")):
        assert re.search(rf"{name}.xml: object 1 \({name}.jpg\): [^;]*{what}", str(error.value))
    made = {"train": [Made("a.jpg", (20, 50), [(0, 32, 3, 47, 9)])]}
    folder = write_voc(tmp_path / "sizes", made)
    text = folder / "Annotations/a.xml"
    swapped = "<width>20</width><height>50</height>"
    text.write_text(text.read_text().replace("<width>50</width><height>20</height>", swapped))
    with pytest.raises(DataError, match=r"a.xml: a.jpg is said to be 20 × 50 .*a.jpg is 50 × 20, with width"):
        Voc("voc/it", folder)
    folder = write_voc(tmp_path / "files", photos())
    (folder / "Annotations/train0.xml").write_text("<annotation>")
    (folder / "Annotations/train1.xml").unlink()
    (folder / "Annotations/train2.xml").write_text("<a><object><name>x</name></object></a>")
    (folder / "Annotations/train3.xml").write_text("<a><object><bndbox/></object></a>")
    with pytest.raises(DataError) as error:
        Voc("voc/it", folder)
    for message in (
        "train0.xml: cannot be read as XML",
        "train1.xml: train1.jpg has no annotation",
        "train2.xml: object 1 needs a bndbox",
        "train3.xml: object 1 has no name",
    ):
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "has 4 numbers, expected a class, x, y, width and height"),
        ("0 0.5 0.5 0.2 0.1 0.9", "has 6 numbers"),
        ("0 0.5 0.5 0.2 0.1 0.9 0.8 0.7", "has 8 numbers"),
        ("ant 0.5 0.5 0.2 0.1", "is 'ant 0.5 0.5 0.2 0.1', expected a class and numbers"),
        ("3 0.5 0.5 0.2 0.1", "has the class 3 of 3 classes, 'ant', 'bee', 'cat', expected 0, 1, 2"),
        ("-1 0.5 0.5 0.2 0.1", "has the class -1"),
        ("0.5 0.5 0.5 0.2 0.1", "has the class 0.5"),
        ("nan 0.5 0.5 0.2 0.1", "has the class nan"),
        ("1e300 0.5 0.5 0.2 0.1", "has the class 1e+300"),
        ("0 300 200 20 10", "is '0 300 200 20 10', expected parts of the photograph's width and height, 0 to 1"),
        ("0 0.5 0.5 nan 0.1", "is '0 0.5 0.5 nan 0.1', expected parts of the photograph's width and height, 0 to 1"),
    ],
)
def test_faults_of_yolo(tmp_path, line, message):
    folder = write_yolo(tmp_path, photos())
    (folder / "labels/train/train0.txt").write_text("0 0.5 0.5 0.2 0.1\n\n" + line + "\n")
    (folder / "labels/val/val2.txt").write_text(line)
    with pytest.raises(DataError) as error:
        Yolo("yolo/it", folder)
    assert f"labels/train/train0.txt: line 3 {message}" in str(error.value)
    assert f"labels/val/val2.txt: line 1 {message}" in str(error.value)


def test_classes_that_nothing_names_are_not_counted_to_the_billions(tmp_path):
    folder = write_yolo(tmp_path, photos(), names=())
    (folder / "labels/train/train0.txt").write_text("999999999 0.5 0.5 0.2 0.1")
    with pytest.raises(DataError, match=r"line 1 has the class 1e\+09, expected 0, 1, 2"):
        Yolo("yolo/it", folder)


def test_a_split_of_yolo_without_any_text(tmp_path):
    folder = write_yolo(tmp_path, photos())
    for path in (folder / "labels/train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"labels/train/train0.txt: no such file, nor one for another image of 'train'"):
        Yolo("yolo/it", folder)


def test_numbers_of_yolo_may_leave_the_photograph_by_rounding(tmp_path):
    folder = write_yolo(tmp_path, photos())
    (folder / "labels/train/train0.txt").write_text("0 0.5 0.5 1.000001 0.1")
    origin = Yolo("yolo/it", folder)
    (found,) = origin.photos("train")[0].objects
    np.testing.assert_allclose(found.box, (0, 0.45, 1, 0.55), atol=1e-6)
