"""Tests of finding out by looking what a folder of photographs holds."""

import json
import shutil

import pytest
from label_sets import labelled, write_labelled
from photo_sets import photos, write_coco, write_voc, write_yolo
from PIL import Image

from aa_flax.data import DataError
from aa_flax.data.sets.looking import KINDS, kind_of_files


def write_classes(folder, names=("ant", "bee"), count=2):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (90 * number, 0, 0)).save(folder / name / f"{number}.JPG")
    return folder


@pytest.mark.parametrize("layout", ["coco", "roboflow", "beside", "images", "images of splits"])
def test_coco(tmp_path, layout):
    assert kind_of_files(write_coco(tmp_path, photos(), layout)) == "coco_json"


@pytest.mark.parametrize("layout", ["voc", "flat", "roboflow"])
def test_voc(tmp_path, layout):
    assert kind_of_files(write_voc(tmp_path, photos(), layout)) == "voc"


@pytest.mark.parametrize("layout", ["ultralytics", "roboflow", "beside"])
def test_yolo(tmp_path, layout):
    assert kind_of_files(write_yolo(tmp_path, photos(), layout)) == "yolo"


@pytest.mark.parametrize("layout", ["ade20k", "camvid", "underscore", "within", "mmseg"])
def test_label_maps(tmp_path, layout):
    write_labelled(tmp_path, labelled(), layout)
    assert kind_of_files(tmp_path) == "label_folder"


@pytest.mark.parametrize("inside", [("",), ("train", "val"), ("images",), ("deep/images/train", "deep/images/test")])
def test_classes(tmp_path, inside):
    for each in inside:
        write_classes(tmp_path / each)
    (tmp_path / "about.json").write_text('{"licence": "mine"}')
    (tmp_path / "notes.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # beside no image
    assert kind_of_files(tmp_path) == "image_folder"


def test_what_cannot_be_told_is_one_line(tmp_path):
    with pytest.raises(DataError, match="nothing: no such folder$"):
        kind_of_files(tmp_path / "nothing")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: no images in it or in the folders below$"):
        kind_of_files(tmp_path / "empty")
    one = write_classes(tmp_path / "one", ["ant"])
    with pytest.raises(DataError, match="folders of classes, expected at least 2"):
        kind_of_files(one)


def test_signs_of_several_kinds_are_named_with_a_way_out(tmp_path):
    mixed = write_yolo(tmp_path / "mixed", photos(), "ultralytics")
    write_coco(mixed, photos(), "images of splits")
    with pytest.raises(DataError) as caught:
        kind_of_files(mixed)
    assert str(caught.value) == (
        f"{mixed}: holds boxes in COCO's JSON (annotations/train.json) and boxes in YOLO's text files "
        "(labels/train/train1.txt); say which is meant by its kind: coco_json, yolo"
    )
    beside = write_classes(tmp_path / "beside")
    shutil.copytree(write_voc(tmp_path / "voc", photos(), "flat"), beside / "ant", dirs_exist_ok=True)
    with pytest.raises(DataError, match=r"Pascal VOC's XML \(ant/\S+.xml\) and folders of classes \(ant, bee\)"):
        kind_of_files(beside)


def test_a_link_to_itself_and_a_broken_file_are_no_sign(tmp_path):
    folder = write_classes(tmp_path / "photos")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "empty.json").write_text("")
    (folder / "list.json").write_text(json.dumps({"images": []}))
    assert kind_of_files(folder) == "image_folder"
    assert {*KINDS} == {"image_folder", "coco_json", "voc", "yolo", "label_folder"}
