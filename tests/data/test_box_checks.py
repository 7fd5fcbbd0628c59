"""Tests of what is found wrong in data sets of detection before anything is stored: all at once, by file and number."""

import itertools
import json
import pickle
import re

import pytest
from photo_sets import Made, photos, write_coco

from aa_flax.data import DataError
from aa_flax.data.errors import DataFaults
from aa_flax.data.sets.coco_json import CocoJson

TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


def faults_of(folder, change, origin=CocoJson, made=None):
    """Return the faults of a folder of COCO's JSON, a line each, each document changed."""
    write_coco(folder, made or photos(train=9), change=change)
    with pytest.raises(DataFaults) as error:
        origin("coco_json/it", folder)
    first, *lines = error.value.lines
    assert str(error.value) == "\n".join(error.value.lines)
    assert pickle.loads(pickle.dumps(error.value)).lines == error.value.lines
    if not lines:
        return [first]
    assert re.fullmatch(rf"{re.escape(str(folder))}: \d+ faults", first)
    return lines


def boxes(document, **changed):
    """Change the box of an annotation by its id: x, y, width, height."""
    for annotation in document["annotations"]:
        annotation["bbox"] = changed.get(f"a{annotation['id']}", annotation["bbox"])


def test_boxes_that_are_none(tmp_path):
    def change(split, document):
        if split == "train":
            boxes(document, a101=[1, 2, -3, 4], a103=[100, 2, 5, 5], a104=[1, float("nan"), 5, 5], a106=[-9, 2, 9, 5])
        else:
            boxes(document, a101=[3, 4, 5, -0.5], a102=[2, 3, 4], a103=["1", 2, 3, 4])

    lines = faults_of(tmp_path, change)
    for path, pattern in (
        (TRAIN, r"annotation 101 \(train1.jpg\): the box x1, y1, x2, y2 = 1, 2, -2, 6 has a negative width or height"),
        (TRAIN, r"annotation 103 .*: .* lies outside its photograph of \d+ × \d+"),
        (TRAIN, r"annotation 104 .*, expected finite numbers"),
        (TRAIN, r"annotation 106 .* = -9, 2, 0, 7 lies outside"),
        (VAL, r"annotation 101 .* has a negative width or height"),
        (VAL, r"annotation 102: bbox is \[2, 3, 4\], expected x, y, width, height"),
        (VAL, r"annotation 103: bbox is \['1', 2, 3, 4\], expected x, y"),
    ):
        place = re.escape(str(tmp_path / path))
        assert [line for line in lines if re.fullmatch(f"{place}: {pattern}.*", line)], pattern
    assert len(lines) == 7


def test_many_faults_of_a_kind_are_counted(tmp_path):
    def change(split, document):
        for annotation in document["annotations"]:
            annotation["bbox"] = [500 + annotation["id"], 2, 3, 4]

    lines = faults_of(tmp_path, change, made=photos(train=29))
    assert len(lines) == 11 and all("lies outside its photograph" in line for line in lines[:10])
    boxes = sum(len(each.objects) for some in photos(train=29).values() for each in some)
    assert lines[-1] == f"and {boxes - 10} more: boxes outside {boxes - 10}"


def test_every_kind_is_among_the_first_ten_faults(tmp_path):
    def change(split, document):
        for annotation in document["annotations"]:
            annotation["bbox"] = [500 + annotation["id"], 2, 3, 4] if split == "train" else [5, 5, -3, 4]
        document["annotations"][0]["image_id"] = None

    lines = faults_of(tmp_path, change, made=photos(train=29))
    assert len(lines) == 11 and sum("which is not listed" in line for line in lines) == 2
    assert sum("lies outside" in line for line in lines) > 4 and sum("has a negative" in line for line in lines) == 2
    assert re.fullmatch(r"and \d+ more: boxes outside \d+", lines[-1])


def test_sizes_of_the_json_that_are_not_the_files(tmp_path):
    """Not the boxes are wrong, though they lie outside what the JSON says."""
    made = {"train": [Made(f"{k}.jpg", (20, 50), [(0, 32, 3, 47, 9)], k) for k in range(9)]}

    def change(split, document):
        for image in document["images"][2:4]:
            image["width"], image["height"] = image["height"], image["width"]
        document["images"][5].update(width=25, height=10)
        document["annotations"][7]["bbox"] = [51, 3, 5, 5]

    lines = faults_of(tmp_path, change, made=made)
    assert [line.partition(": ")[2] for line in lines] == [
        *(
            f"{k}.jpg is said to be 20 × 50 (width × height), and {tmp_path}/train2017/{k}.jpg is 50 × 20, with width "
            "and height swapped"
            for k in (2, 3)
        ),
        f"5.jpg is said to be 25 × 10 (width × height), and {tmp_path}/train2017/5.jpg is 50 × 20",
        "annotation 108 (7.jpg): the box x1, y1, x2, y2 = 51, 3, 56, 8 lies outside its photograph of 50 × 20",
    ]


def test_boxes_without_area_are_dropped_and_those_beyond_kept(tmp_path):
    def change(split, document):
        if split == "train":
            boxes(document, a101=[3, 4, 0, 9], a103=[5, 5, 7, 0.0], a104=[-3, 5, 9.5, 9], a105=[2, -1e-7, 9, 3])

    origin = CocoJson("coco_json/it", write_coco(tmp_path, photos(train=9), change=change))
    kept = {each.number: each.box for photo in origin.photos("train") for each in photo.objects}
    assert 101 not in kept and 103 not in kept and kept[104] == (-3, 5, 6.5, 14)
    assert "boxes without area, dropped: 2 (" in "".join(origin.notes)
    assert "boxes that reach beyond their photographs, stored as annotated: 1 (" in "".join(origin.notes)


def test_numbers_that_no_record_holds(tmp_path):
    """Integers beyond 64 bits, which JSON may have anywhere."""
    huge = 10**400

    def change(split, document):
        if split == "train":
            document["images"][0]["id"] = huge
            document["annotations"][0]["bbox"] = [huge, 1, 2, 3]
            document["annotations"][1]["category_id"] = huge
            document["annotations"][2]["image_id"] = -huge
        else:
            document["images"][0].update(width=huge, height=huge)
            document["annotations"][0].update(id=huge, area=huge, iscrowd=huge)

    lines = faults_of(tmp_path, change)
    for pattern in ("image 0 needs an integer id", "bbox is", "has the category 1000", "is of image -1000"):
        assert [line for line in lines if pattern in line and str(tmp_path / TRAIN) in line], pattern
    assert not [line for line in lines if str(tmp_path / VAL) in line]
    categories = [{"id": huge, "name": "ant"}]
    lines = faults_of(tmp_path / "more", lambda split, document: {**document, "categories": categories})
    assert any("category 0 needs an integer id" in line for line in lines)


@pytest.mark.parametrize("split", ["train", "val"])
def test_corners_where_width_and_height_should_be(tmp_path, split, rng):
    """Boxes in the lower right of photographs reach far beyond them when corners are read as width and height."""

    def as_corners(each, document):
        if each == split:
            for annotation in document["annotations"]:
                x, y, width, height = annotation["bbox"]
                annotation["bbox"] = [x, y, x + width, y + height]

    lines = faults_of(tmp_path / split, as_corners)
    assert (
        len(lines) == 1
        and f"instances_{split}2017.json: the boxes are x1, y1, x2, y2, expected x, y, width" in lines[0]
    )


def test_width_and_height_are_not_taken_for_corners(tmp_path, rng):
    """Neither boxes that cover nearly all of their photographs, nor a few that reach far beyond, are corners."""
    made = {"train": [Made(f"{k}.jpg", (40, 60), [(0, 0.5, 0.5, 59.5, 39.5)], k) for k in range(9)]}
    CocoJson("coco_json/it", write_coco(tmp_path / "whole", made))

    def beyond(split, document):
        boxes(document, a101=[10, 10, 58, 39])

    CocoJson("coco_json/it", write_coco(tmp_path / "some", photos(train=9), change=beyond))


def test_images_and_annotations_that_do_not_fit(tmp_path):
    def change(split, document):
        images, annotations = document["images"], document["annotations"]
        if split == "train":
            images.append({**images[0], "file_name": "other.jpg"})
            images.append({"file_name": "no_id.jpg"})
            images.append({"id": "12", "file_name": "text.jpg"})
            annotations[0]["image_id"] = 77
            del annotations[1]["image_id"]
        else:
            annotations[0]["category_id"] = 4
            annotations[1]["category_id"] = [3]
            annotations.append("nothing")
            images.append({"id": 3000})

    lines = faults_of(tmp_path, change)
    for path, pattern in (
        (TRAIN, "two images have the id 1: 'train0.jpg', 'other.jpg'"),
        (TRAIN, r"image 10 needs an integer id and a file_name, got \{'file_name': 'no_id.jpg'\}"),
        (TRAIN, "image 11 needs an integer id"),
        (TRAIN, "annotation 101 is of image 77, which is not listed"),
        (TRAIN, "annotation 102 is of image None, which is not listed"),
        (VAL, r"annotation \d+ has the category 4, which is not listed"),
        (VAL, r"annotation \d+ has the category \[3\], which is not listed"),
        (VAL, r"annotation \d+ \(counted from 0\) is no dictionary"),
        (VAL, "image 3 needs an integer id"),
    ):
        place = re.escape(str(tmp_path / path))
        assert [line for line in lines if re.match(f"{place}: {pattern}", line)], pattern


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [*c, {"id": 3, "name": "dog"}], "two categories have the id 3: 'ant', 'dog'"),
        (lambda c: [*c, {"id": 4}], "category 3 needs an integer id and a name"),
        (lambda c: [*c, {"id": "4", "name": "dog"}], "category 3 needs an integer id and a name"),
        (lambda c: [{**each, "name": "ant"} for each in c], "the categories 3 and 5 are both 'ant'"),
        (lambda c: [], "has annotations and no categories"),
    ],
)
def test_categories_of_a_file(tmp_path, change, message):
    lines = faults_of(tmp_path, lambda split, document: {**document, "categories": change(document["categories"])})
    assert any(message in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # ids shifted by one, two exchanged, one that train lacks
        (
            lambda c: [{**each, "id": each["id"] + 1} for each in c],
            "category 4 is 'ant', which .*train2017.json does not",
        ),
        (
            lambda c: [{**c[0], "name": "bee"}, {**c[1], "name": "ant"}, c[2]],
            "3 is 'bee', where .*train2017.json has 'ant'",
        ),
        (lambda c: [*c, {"id": 12, "name": "dog"}], "category 12 is 'dog', which .* does not have"),
    ],
)
def test_categories_of_train_against_val(tmp_path, change, message):
    def changed(split, document):
        if split == "val":
            document["categories"] = change(document["categories"])
            document["annotations"] = []

    lines = faults_of(tmp_path, changed)
    assert any(re.search(message, line) and str(tmp_path / VAL) in line for line in lines)


def test_val_may_list_fewer_categories_and_in_another_order(tmp_path):
    def change(split, document):
        if split == "val":
            document["categories"] = document["categories"][:0:-1]
            document["annotations"] = [each for each in document["annotations"] if each["category_id"] != 3]

    origin = CocoJson("coco_json/it", write_coco(tmp_path, photos(), change=change))
    assert origin.categories() == ([3, 5, 11], ["ant", "bee", "cat"])
    assert {each.label for photo in origin.photos("val") for each in photo.objects} == {1, 2}


@pytest.mark.parametrize("ids", [lambda k: k, lambda k: 7, lambda k: -k, lambda k: str(k + 1), lambda k: None])
def test_annotations_are_numbered_again_where_their_ids_cannot_be_used(tmp_path, ids):
    def change(split, document):
        for number, annotation in enumerate(document["annotations"]):
            annotation["id"] = ids(number)

    origin = CocoJson("coco_json/it", write_coco(tmp_path, photos(), change=change))
    for split in ("train", "val"):
        numbers = [each.id for photo in origin.photos(split) for each in photo.objects]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert "numbered again from 1: 2 (" in "".join(origin.notes)


def test_area_and_iscrowd_may_be_missing(tmp_path):
    nan = float("nan")
    segmentations = itertools.cycle(
        [
            [],
            None,
            [[1, 2, 3]],
            [[1, 2, 3, 4, 5]],
            [[1, 2, 3, 4, 5, nan]],
            [[1, 2.5, 3, 4, 5, 10**400]],
            [1, 2, 3, 4, 5, 6],
            {},
            {"counts": [1, 2], "size": [3, 1]},
        ]
    )

    def change(split, document):
        for annotation in document["annotations"]:
            del annotation["area"], annotation["iscrowd"]
            annotation["segmentation"] = next(segmentations)

    origin = CocoJson("coco_json/it", write_coco(tmp_path, photos(), change=change))
    for photo in origin.photos("train"):
        assert all((each.area, each.crowd, each.segmentation) == (None, False, "") for each in photo.objects)
    noted = "".join(origin.notes)
    assert "without an area" in noted and "do not say iscrowd" in noted and "neither polygons nor run lengths" in noted
    for what in ("an odd number of coordinates", "are no finite numbers", "run lengths that do not fit, left out"):
        assert what in noted


def test_images_without_objects_are_counted(tmp_path):
    origin = CocoJson("coco_json/it", write_coco(tmp_path, photos()))
    empty = [photo.name for photo in origin.photos("train") if not photo.objects]
    assert f"images of train without objects, kept: {len(empty)} ({empty[0]}" in "".join(origin.notes) and empty


def test_what_no_file_lists_is_noted(tmp_path):
    folder = write_coco(tmp_path, photos())
    for name in ("more.jpg", "more.PNG", "more.txt", ".hidden.jpg"):
        (folder / "train2017" / name).write_bytes(b"")
    (note,) = (note for note in CocoJson("coco_json/it", folder).notes if "no file of annotations lists" in note)
    assert "left out: 2 (" in note


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no COCO JSON .* expected annotations/instances_train2017.json"),
        ({"results.json": [{"image_id": 1}]}, "no COCO JSON"),
        ({"train.json": "{"}, "train.json: cannot be read as JSON"),
        ({"train.json": {"images": [], "annotations": {}}}, "train.json: 'annotations' is no list"),
        ({"train.json": {"images": []}}, "train.json: no categories"),
        ({"train.json": {"images": [], "categories": [{"id": 1, "name": "a"}]}}, "the split 'train' has no images"),
        (
            {"train.json": {"images": []}, "a/instances_train.json": {"images": []}},
            "train.json and a/instances_train.json are both the split 'train'",
        ),
    ],
)
def test_folders_without_a_use(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message):
        CocoJson("coco_json/it", tmp_path)
