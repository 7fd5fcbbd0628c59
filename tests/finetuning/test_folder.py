"""Tests of a folder of photographs as a data set with a held-out part."""

import collections
import dataclasses

import numpy as np
import pytest
from photo_sets import photos, write_coco, write_voc
from PIL import Image

from aa_flax.data import DataError
from aa_flax.finetuning.choices import batch_for
from aa_flax.finetuning.folder import Photographs, name_of_data, open_folder


def draw(folder, counts, size=(20, 14)):
    """Write a folder of images for each class, of so many images."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (60 * label, 5 * number, 9)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.thorough
def test_a_part_is_held_out_always_the_same_with_its_share_of_each_class(tmp_path):
    folder, counts = tmp_path / "my flowers!", {"daisy": 20, "rose": 9, "tulip": 2}
    draw(folder, counts)
    found = open_folder(folder, data_dir=str(tmp_path / "tfds"))
    assert (found.task, found.train, found.held_out) == ("classification", "train[:25]", "train[25:]")
    assert found.dataset.name.startswith("image_folder/my_flowers_") and found.said[1].startswith(
        "held out: 6 of 31 photographs, with its share of each class, always the same ones"
    )
    source = found.dataset.split(found.held_out)
    labels = collections.Counter(int(source[k]["label"]) for k in range(6))
    assert labels == {0: 3, 1: 2, 2: 1}  # of 3.9, 1.7 and 0.4
    assert found.sizes.tolist() == [[14, 20]] * 24 and (found.shorter_side(), found.longer_side()) == (14, 20)
    again = open_folder(folder, data_dir=str(tmp_path / "others"))
    assert again.dataset.name == found.dataset.name
    theirs = again.dataset.split(again.held_out)
    assert all((source[k]["image"] == theirs[k]["image"]).all() for k in range(6))
    Image.new("RGB", (5, 5)).save(folder / "rose" / "more.png")
    assert name_of_data(folder) != found.dataset.name


@pytest.mark.thorough
def test_a_split_of_the_folder_is_taken_and_boxes_know_their_sizes(tmp_path):
    draw(tmp_path / "own" / "train", {"a": 3, "b": 1})
    draw(tmp_path / "own" / "valid", {"a": 1, "b": 1})
    found = open_folder(tmp_path / "own", data_dir=str(tmp_path / "tfds"))
    assert (found.train, found.held_out) == ("train", "valid") and "the folder's own 'valid', 2 photo" in found.said[1]
    made = {"train": photos(train=11)["train"]}
    boxed = open_folder(write_voc(tmp_path / "boxes", made, "flat"), data_dir=str(tmp_path / "tfds"))
    assert (boxed.task, boxed.train, boxed.held_out) == ("detection", "train[:8]", "train[8:]")
    boxes, most = boxed.objects()
    assert boxes.shape[1] == 4 and most == 3 and 0 < boxes.max() <= 1
    names = {label for truth in boxed.dataset.truths(boxed.held_out) for label in truth.labels.tolist()}
    assert names == {0, 1, 2}


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"a": 3, "b": 1, "c": 1}, r"one image in the class 'b', 'c'; each needs two at least, one of which is held"),
        ({"a": 3}, r"1 folders of classes, expected at least 2"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(tmp_path, counts, words):
    with pytest.raises(DataError, match=words) as caught:
        open_folder(draw(tmp_path / "it", counts), data_dir=str(tmp_path / "tfds"))
    assert "\n" not in str(caught.value) and not (tmp_path / "tfds").exists()


@pytest.mark.thorough
def test_photographs_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path):
    folder, prepared = draw(tmp_path / "it", {"a": 5, "b": 5}), str(tmp_path / "tfds")
    (folder / "b" / "0.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(DataError, match="--skip_damaged, of `aa-flax data prepare` and `aa-flax finetune`, leaves"):
        open_folder(folder, data_dir=prepared)
    assert sum(open_folder(folder, data_dir=prepared, skip_damaged=True).dataset.splits.values()) == 9
    assert sum(open_folder(folder, data_dir=prepared).dataset.splits.values()) == 9  # it is prepared


@pytest.mark.thorough
def test_a_detector_is_not_learnt_from_photographs_without_objects(tmp_path):
    made = [dataclasses.replace(each, objects=[]) for each in photos(train=4)["train"]]
    folder = write_coco(tmp_path / "empty", {"train": made})
    with pytest.raises(DataError, match=r"no photograph of 'train\[:2\]' has an object"):
        open_folder(folder, data_dir=str(tmp_path / "tfds"))


def test_an_unknown_kind_is_one_line(tmp_path):
    with pytest.raises(
        DataError, match="kind must be one of image_folder, coco_json, voc, yolo, label_folder, got 'x'"
    ):
        open_folder(write_coco(tmp_path, photos()), "x")


def canvas(sizes, longest):
    return Photographs(None, "detection", "train", "val", np.array(sizes), ()).canvas(longest)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_canvas_has_the_aspect_and_at_most_the_size_of_the_photographs():
    assert canvas([[480, 640]] * 9, 320) == (256, 320)
    assert canvas([[640, 480]] * 9, 320) == (320, 256)
    assert canvas([[640, 480]] * 2 + [[480, 640]] * 3, 320) == (320, 320)
    assert canvas([[60, 80]], 320) == (64, 96)


def test_a_batch_is_a_power_of_two_for_all_devices():
    devices = 8  # as the tests have them
    assert [batch_for(count, 32) for count in (3, 8, 100, 511, 512, 10_000)] == [devices, devices, 8, 32, 32, 32]
