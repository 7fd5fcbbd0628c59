"""Tests of data sets of detection in COCO's JSON: layouts, what is stored, and how the files are read."""

import io
import json

import numpy as np
import pytest
from odd_names import NAMES as ODD
from photo_sets import NAMES, Made, coco, photos, write_coco
from PIL import Image

from aa_flax.data import DataError, load
from aa_flax.data.errors import DataFaults
from aa_flax.data.sets.coco_json import CocoJson
from aa_flax.data.sets.own import prepare
from aa_flax.literal import told_apart


def opened(folder, tmp_path, name="coco_json/it", **options):
    return load(name, data_dir=tmp_path / "tfds", source_dir=folder, **options)


def read(folder, skip_damaged=False):
    """Return the data set as its files are read and checked, without storing it."""
    return CocoJson("coco_json/it", folder, skip_damaged)


@pytest.mark.parametrize("layout", ["coco", "roboflow", "beside", "images", "images of splits"])
def test_layouts(layout, tmp_path):
    made = photos()
    origin = read(write_coco(tmp_path / "it", made, layout))
    assert origin.class_names == list(NAMES) and origin.categories()[0] == [3, 5, 11]
    assert {split: [photo.name for photo in origin.photos(split)] for split in made} == {
        split: [each.name for each in some] for split, some in made.items()
    }
    assert all(photo.path.is_file() for split in made for photo in origin.photos(split))
    assert not [note for note in origin.notes if "left out" in note]


def test_a_folder_of_images_is_found_whatever_is_missing(tmp_path):
    made = photos(train=30)
    for layout in ("coco", "images", "roboflow"):
        folder = write_coco(tmp_path / layout, made, layout)
        for number in [*range(0, 30, 3), *range(10)]:
            next(folder.rglob(f"train{number}.jpg"), folder / "nothing").unlink(missing_ok=True)
        kept = {photo.name for photo in read(folder, skip_damaged=True).photos("train")}
        assert kept == {f"train{number}.jpg" for number in range(10, 30) if number % 3}


def test_images_of_one_name_in_two_splits(tmp_path):
    made = photos()
    for some in made.values():
        for number, each in enumerate(some):
            each.name = f"{number}.jpg"
    for layout in ("coco", "roboflow", "images of splits"):
        origin = read(write_coco(tmp_path / layout, made, layout))
        for split in made:
            assert {
                path.parent.name.removesuffix("2017") for path in (photo.path for photo in origin.photos(split))
            } == {split}


def test_everything_is_stored_exactly(tmp_path):
    """Boxes and areas to the last bit of float64, ids, crowds, polygons, sizes and the bytes of the images."""
    made = photos(3, train=9)
    folder = write_coco(tmp_path / "it", made)
    dataset = opened(folder, tmp_path)
    assert (dataset.class_names, dataset.category_ids) == (NAMES, (3, 5, 11))
    assert dataset.image_shape == (None, None, 3) and dataset.splits == {"train": 9, "val": 3}
    for number, (split, some) in enumerate(made.items()):
        document = json.loads((folder / f"annotations/instances_{split}2017.json").read_text())
        expected = {image["id"]: image for image in document["images"]}
        truths, source = dataset.truths(split), dataset.split(split)
        assert sorted(truth.image_id for truth in truths) == list(
            range(1 + 1000 * number, 1 + 1000 * number + len(some))
        )
        for index, truth in enumerate(truths):
            image = expected[truth.image_id]
            assert (truth.file_name, truth.height, truth.width) == (image["file_name"], image["height"], image["width"])
            annotations = [each for each in document["annotations"] if each["image_id"] == truth.image_id]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in annotations)]
            np.testing.assert_array_equal(truth.objects.boxes, np.array(boxes, np.float64).reshape(-1, 4))
            assert truth.objects.area.tolist() == [each["area"] for each in annotations]
            assert truth.objects.ids.tolist() == [each["id"] for each in annotations]
            assert truth.objects.crowd.tolist() == [bool(each["iscrowd"]) for each in annotations]
            assert truth.objects.labels.tolist() == [(3, 5, 11).index(each["category_id"]) for each in annotations]
            record = source.record(index)
            assert record["image"] == (folder / f"{split}2017" / image["file_name"]).read_bytes()
            assert [json.loads(text) for text in record["objects"]["segmentation"]] == [
                each["segmentation"] for each in annotations
            ]


def test_examples_are_mixed_always_in_the_same_way(tmp_path):
    folder = write_coco(tmp_path / "it", photos(train=20))
    first = [truth.image_id for truth in opened(folder, tmp_path).truths("train")]
    again = [truth.image_id for truth in opened(folder, tmp_path, "coco_json/again").truths("train")]
    assert first == again != sorted(first)


def test_names_of_any_characters(tmp_path):
    """Names of classes and files are text, which is shown as it is and never read as anything else."""
    names = [name for name in ODD if name.isprintable() and "/" not in name and "\\" not in name]
    some = [Made(f"{name}.jpg", (20, 30), [(0, 1, 2, 3, 4)], number) for number, name in enumerate(names)]

    def change(split, document):
        document["categories"] = [{"id": 7 * number, "name": name} for number, name in enumerate(ODD)]
        for number, each in enumerate(document["annotations"]):
            each["category_id"] = 7 * (number % len(ODD))

    dataset = opened(write_coco(tmp_path / "it", {"train": some}, "images", change), tmp_path)
    assert dataset.class_names == ODD and len(told_apart(ODD)) == len({*told_apart(ODD)})
    assert sorted(truth.file_name for truth in dataset.truths("train")) == sorted(each.name for each in some)


def test_file_names_with_folders(tmp_path):
    """Paths below the folder are followed, of those from another machine the last part is."""

    def change(start):
        def renamed(split, document):
            for image in document["images"]:
                image["file_name"] = start + image["file_name"]

        return renamed

    for number, (start, layout) in enumerate(
        [("train2017/", "coco"), ("/home/me/", "images"), ("C:\\me\\", "images"), ("../images/", "images")]
    ):
        folder = write_coco(tmp_path / str(number), {"train": photos()["train"]}, layout, change(start))
        assert all(photo.path.is_file() for photo in read(folder).photos("train"))
    elsewhere = tmp_path / "elsewhere"
    write_coco(elsewhere, {"train": photos()["train"]}, "beside", change("../secret/"))
    (tmp_path / "secret").mkdir()
    for path in elsewhere.glob("*.jpg"):
        path.rename(tmp_path / "secret" / path.name)
    with pytest.raises(DataError, match="images of .* are missing"):
        read(elsewhere)


def test_splits_of_coco_itself(tmp_path):
    folder = write_coco(tmp_path / "it", photos())
    test = {"images": coco([Made("t0.jpg", (20, 30), []), Made("t1.jpg", (20, 30), [])])["images"]}
    for name in ("image_info_test2017", "image_info_test-dev2017"):
        (folder / f"annotations/{name}.json").write_text(json.dumps(test))
    for name in ("captions_train2017", "person_keypoints_val2017", "panoptic_train2017"):
        (folder / f"annotations/{name}.json").write_text("no JSON, and not read")
    (folder / "annotations/results.json").write_text("[]")
    (folder / "test2017").mkdir()
    for number in range(2):
        Image.new("RGB", (30, 20), (number, 9, 200)).save(folder / f"test2017/t{number}.jpg")
    dataset = opened(folder, tmp_path)
    assert dataset.splits == {"train": 5, "val": 3, "test": 2, "test_dev": 2}
    assert [dataset.is_annotated(split) for split in ("train", "val[:50%]", "test", "test_dev", "train+test")] == [
        *[True, True, False, False, False],
    ]
    assert [len(truth.objects) for truth in dataset.truths("test_dev")] == [0, 0]
    assert not dataset.split("test")[0]["valid"].any()
    assert dataset.shared("test", "test_dev") == 2


def test_categories_of_one_file_alone(tmp_path):
    """Ids may have gaps, any order, start at 0, and have no annotations."""

    def change(split, document):
        document["categories"] = [{"id": 11, "name": "cat"}, {"id": 0, "name": "none"}, *document["categories"][:2]]

    origin = read(write_coco(tmp_path / "it", photos(), change=change))
    assert origin.categories() == ([0, 3, 5, 11], ["none", *NAMES])


def test_a_category_that_has_the_projects_name(tmp_path):
    def change(split, document):
        document["categories"].insert(0, {"id": 0, "name": "bee", "supercategory": "none"})

    origin = read(write_coco(tmp_path / "it", photos(), change=change))
    assert origin.categories() == ([3, 5, 11], list(NAMES))
    assert any("categories without annotations" in note for note in origin.notes)


def test_boxes_turn_with_their_photographs(tmp_path, rng):
    """A rectangle drawn where the annotation says is found where the stored box is, in all eight orientations."""
    height, width = 48, 80
    photographs, documents = [], []
    for orientation in range(1, 9):
        pixels = np.full((height, width, 3), 30, np.uint8)
        x1, y1 = (8 * int(rng.integers(0, most)) for most in (6, 3))
        pixels[y1 : y1 + 16, x1 : x1 + 24] = (250, 250 - orientation, 250)
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "jpeg", quality=95, exif=exif)
        photographs.append(buffer.getvalue())
        upright = orientation in (2, 3, 4)  # the size does not tell, so that boxes are of the upright photograph
        box = {2: (width - x1 - 24, y1), 3: (width - x1 - 24, height - y1 - 16), 4: (x1, height - y1 - 16)}
        x, y = box[orientation] if upright else (x1, y1)
        documents.append(Made(f"{orientation}.jpg", (height, width), [(0, x, y, x + 24, y + 16)]))
    folder = write_coco(tmp_path / "it", {"train": documents}, "images")
    for made, content in zip(documents, photographs, strict=True):
        (folder / "images" / made.name).write_bytes(content)
    dataset = opened(folder, tmp_path)
    for index, truth in enumerate(dataset.truths("train")):
        example = dataset.split("train")[index]
        rows, columns = np.nonzero(example["image"][..., 0] > 140)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(truth.objects.boxes[0], found, err_msg=truth.file_name)
        (polygon,) = json.loads(dataset.split("train").record(index)["objects"]["segmentation"][0])
        assert [min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])] == found
        assert (truth.height, truth.width) == example["image"].shape[:2]


def test_sizes_that_do_not_fit(tmp_path, capsys):
    def change(split, document):
        document["images"][1]["width"] += 1
        document["images"][2].update(height=1, width=1)
        document["annotations"] = []

    folder = write_coco(tmp_path / "it", photos(), change=change)
    with pytest.raises(DataError) as error:
        opened(folder, tmp_path)
    message = str(error.value)
    assert message.count("is said to be") == 4 and message.count("\n") == 4
    assert "train1.jpg is said to be" in message and "val2.jpg is said to be 1 × 1" in message
    assert not list((tmp_path / "tfds" / "aa_coco_json_it").glob("1.*"))
    with pytest.raises(DataError, match="is said to be"):  # no image is damaged, so none is left out
        opened(folder, tmp_path, skip_damaged=True)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": float("nan")}, {"width": float("inf")}, {"height": "9"}, {}])
def test_sizes_that_are_none(tmp_path, size):
    """Where the file does not say them, the photographs' own are taken."""

    def change(split, document):
        for image in document["images"]:
            image.update(size) if size else [image.pop(key) for key in ("height", "width")]

    origin = read(write_coco(tmp_path / "it", photos(), change=change))
    assert {photo.size for split in ("train", "val") for photo in origin.photos(split)} == {None}

    def outside(split, document):
        change(split, document)
        document["annotations"][0]["bbox"] = [100, 1, 4, 5]

    with pytest.raises(DataError, match="lies outside its photograph"):
        read(write_coco(tmp_path / "it", photos(), change=outside))


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 300 + ".jpg", "\ud800.jpg", "train2017"])
def test_names_that_no_file_has_are_missing(tmp_path, name):
    def change(split, document):
        document["images"][2]["file_name"] = name

    folder = write_coco(tmp_path / "it", photos(), change=change)
    with pytest.raises(DataError, match="images of .* are missing"):
        read(folder)
    assert len(read(folder, skip_damaged=True).photos("train")) == 4


def test_missing_and_damaged_images(tmp_path, capsys):
    folder = write_coco(tmp_path / "it", photos())
    (folder / "train2017/train1.jpg").unlink()
    (folder / "val2017/val2.jpg").unlink()
    with pytest.raises(DataError) as error:
        opened(folder, tmp_path)
    for split, count, name in (("train", 5, "train1.jpg"), ("val", 3, "val2.jpg")):
        told = f"1 of the {count} images of '{split}' are missing: '{name}' (no {folder}/{split}2017/{name})"
        assert f"annotations/instances_{split}2017.json: {told}" in str(error.value)
    assert "--skip_damaged" in str(error.value) and "decoded" not in str(error.value)
    write_coco(folder, photos())
    for name in ("train2017/train3.jpg", "val2017/val0.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    with pytest.raises(DataError) as error:
        opened(folder, tmp_path)
    message = str(error.value)
    assert all(f"{name}: the image cannot be decoded" in message for name in ("train3.jpg", "val0.jpg"))
    assert "--skip_damaged" in message
    (folder / "train2017/train1.jpg").unlink()
    dataset = opened(folder, tmp_path, skip_damaged=True)
    assert dataset.splits == {"train": 3, "val": 2}
    assert sorted(truth.file_name for truth in dataset.truths("train")) == ["train0.jpg", "train2.jpg", "train4.jpg"]
    noted = capsys.readouterr().err
    assert "damaged images, left out: 2" in noted and "missing images, left out: 1" in noted


def test_an_image_that_cannot_be_read_is_not_called_damaged(tmp_path):
    folder = write_coco(tmp_path / "it", photos())
    origins = [read(folder), read(folder, skip_damaged=True)]
    (folder / "train2017/train1.jpg").unlink()
    (folder / "train2017/train1.jpg").mkdir()  # no file any more, after the folder was looked at
    (folder / "train2017/train2.jpg").write_bytes(b"")
    with pytest.raises(DataFaults) as error:
        prepare(origins[0], tmp_path / "tfds")
    told = "\n".join(error.value.lines)
    assert "train1.jpg: cannot be read (Is a directory)" in told and "--skip_damaged" in told
    assert "train2.jpg: the image cannot be decoded (the file is empty)" in told
    prepare(origins[1], tmp_path / "tfds")
    noted = "\n".join(origins[1].notes)
    assert "unreadable images, left out: 1 (" in noted and "damaged images, left out: 1 (" in noted


def test_the_same_photograph_in_two_splits(tmp_path, capsys):
    made = photos()
    for one, other in ((1, 0), (3, 2)):
        made["val"][other].color, made["val"][other].size = made["train"][one].color, made["train"][one].size
        made["val"][other].objects = made["train"][one].objects
    made["train"][4].color, made["train"][4].size = made["train"][0].color, made["train"][0].size
    made["train"][4].objects = []
    dataset = opened(write_coco(tmp_path / "it", made), tmp_path)
    noted = capsys.readouterr().err
    assert "the same photograph in train and val: 2" in noted and "train1.jpg = val0.jpg" in noted
    assert "the same photograph twice in train: 1" in noted
    assert (dataset.shared("train", "val"), dataset.shared("val", "train"), dataset.shared("val", "val")) == (2, 2, 3)
    index = [truth.file_name for truth in dataset.truths("train")].index("train1.jpg")
    assert dataset.shared(f"train[{index}:{index + 1}]", "val") == 1
    assert dataset.shared(f"train[{index}:{index + 1}]", "train") == 1
    names = [truth.file_name for truth in dataset.truths("train")]
    first, second = sorted((names.index("train0.jpg"), names.index("train4.jpg")))
    assert dataset.shared(f"train[:{second}]", f"train[{second}:]") == 1 and first < second
    assert dataset.shared("train", "train") == 5


def test_prepared_once_and_told_apart_from_other_files(tmp_path):
    folder = write_coco(tmp_path / "it", photos())
    first = opened(folder, tmp_path)
    again = opened(folder, tmp_path)
    assert first.fingerprint == again.fingerprint == load("coco_json/it", data_dir=tmp_path / "tfds").fingerprint
    path = folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][2] *= 0.5
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"other files than those that were prepared \(annotations\)"):
        opened(folder, tmp_path)
    with pytest.raises(DataError, match="name the folder that holds annotations/instances_train2017.json and"):
        load("coco_json/other", data_dir=tmp_path / "tfds")
    for name in ("coco_json/", "coco_json/a b", "coco_json/../x"):
        with pytest.raises(DataError, match="expected coco_json/NAME|such as coco_json/flowers"):
            opened(folder, tmp_path, name)
    with pytest.raises(DataError, match="give your data set a name of its own, such as coco_json/flowers"):
        opened(folder, tmp_path, "coco_json")
