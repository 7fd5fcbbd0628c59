"""Tests of data sets of detection in Pascal VOC's XML and in YOLO's text files."""

import json

import numpy as np
import pytest
from odd_names import NAMES as ODD
from photo_sets import NAMES, Made, photos, write_coco, write_voc, write_yolo

from aa_flax.data import DataError, load
from aa_flax.data.sets.voc import Voc
from aa_flax.data.sets.yolo import Yolo


def objects_of(origin, split):
    """Return names and objects of the photographs as they are read: class name, box, crowd."""
    return {
        photo.name: [(origin.class_names[each.label], each.box, each.crowd) for each in photo.objects]
        for photo in origin.photos(split)
    }


def expected(made, split, scaled=False):
    return {
        each.name: [
            (NAMES[label], (x1 / each.size[1], y1 / each.size[0], x2 / each.size[1], y2 / each.size[0]), False)
            if scaled
            else (NAMES[label], (x1, y1, x2, y2), label == 2)
            for label, x1, y1, x2, y2 in each.objects
        ]
        for each in made[split]
    }


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, objects in wanted.items():
        assert [(each[0], each[2]) for each in found[name]] == [(each[0], each[2]) for each in objects]
        np.testing.assert_allclose([each[1] for each in found[name]], [each[1] for each in objects], atol=1e-12)


@pytest.mark.parametrize("layout", ["voc", "roboflow"])
def test_layouts_of_voc(layout, tmp_path):
    made = photos(train=9)
    origin = Voc("voc/it", write_voc(tmp_path / "it", made, layout))
    assert origin.class_names == list(NAMES)
    for split in made:
        assert objects_of(origin, split) == expected(made, split)


def test_a_flat_folder_and_one_inside_another(tmp_path):
    made = {"train": photos(train=9)["train"]}
    folder = write_voc(tmp_path / "flat", made, "flat")
    (folder / "train1.xml").unlink()
    origin = Voc("voc/it", folder)
    assert [photo.name for photo in origin.photos("train")] == [f"train{k}.jpg" for k in range(9) if k != 1]
    assert "images without an .xml, left out" in "".join(origin.notes)
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", photos())
    assert len(Voc("voc/it", tmp_path / "VOCdevkit").photos("val")) == 3
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", photos())
    with pytest.raises(DataError, match="several data sets, name one of '.*VOC2007', '.*VOC2012'"):
        Voc("voc/it", tmp_path / "VOCdevkit")


def test_pascal_vocs_own_pixels_are_counted_from_one(tmp_path):
    """A box of the first to the last pixel covers the photograph."""
    made = {"train": [Made("a.jpg", (20, 30), [(0, 1, 1, 30, 20), (1, 5, 6, 5, 6)])]}
    own = Voc("voc/it", write_voc(tmp_path / "own", made, database="The VOC2007 Database"))
    assert [each.box for each in own.photos("train")[0].objects] == [(0, 0, 30, 20), (4, 5, 5, 6)]
    other = Voc("voc/it", write_voc(tmp_path / "other", made, database="Unknown"))
    assert [each.box for each in other.photos("train")[0].objects] == [(1, 1, 30, 20)]  # without area otherwise


def test_lists_of_voc(tmp_path):
    made = photos()
    folder = write_voc(tmp_path / "it", made)
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    (lists / "test.txt").write_text("t0.jpg  1\nt1\n")
    for name in ("t0", "t1"):
        (folder / f"JPEGImages/{name}.jpg").write_bytes((folder / "JPEGImages/train0.jpg").read_bytes())
    origin = Voc("voc/it", folder)
    assert list(origin.splits()) == ["train", "val", "test"] and "trainval.txt: the same as" in "".join(origin.notes)
    assert origin.metadata()["annotated"] == ["train", "val"]
    (lists / "val.txt").write_text("val0\nval1\nval0\nnothing\n")
    (lists / "trainval.txt").unlink()
    with pytest.raises(DataError, match=r"val.txt: names images twice: 'val0'"):
        Voc("voc/it", folder)
    (lists / "val.txt").write_text("val0\nnothing\n")
    with pytest.raises(DataError, match=r"1 of the 2 images of 'val' are missing: 'nothing.jpg'"):
        Voc("voc/it", folder)
    (lists / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="val.txt: names no image"):
        Voc("voc/it", folder)


def test_voc_is_stored_and_read(tmp_path):
    made = photos(train=9)
    folder = write_voc(tmp_path / "it", made)
    dataset = load("voc/it", data_dir=tmp_path / "tfds", source_dir=folder)
    assert (dataset.splits, dataset.class_names, dataset.category_ids) == ({"train": 9, "val": 3}, NAMES, (1, 2, 3))
    wanted = expected(made, "train")
    ids = []
    for truth in dataset.truths("train"):
        objects = truth.objects
        ids += objects.ids.tolist()
        assert wanted[truth.file_name] == [
            (NAMES[label], tuple(box), crowd)
            for label, box, crowd in zip(objects.labels, objects.boxes.tolist(), objects.crowd, strict=True)
        ]
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        np.testing.assert_array_equal(objects.area, sides.prod(1))
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert load("voc/it", data_dir=tmp_path / "tfds").fingerprint == dataset.fingerprint


def test_names_of_the_catalogue_stay_open(tmp_path):
    with pytest.raises(DataError) as error:
        load("voc/2007", data_dir=tmp_path)
    assert "source_dir" in str(error.value) and "aa_flax.data prepare voc/2007" in str(error.value)
    with pytest.raises(DataError) as error:
        load("voc/mine", data_dir=tmp_path)
    assert "aa_flax.data prepare voc/mine --source_dir=FOLDER" in str(error.value)


@pytest.mark.parametrize("layout", ["ultralytics", "roboflow", "beside"])
@pytest.mark.parametrize("names", [NAMES, ()])
def test_layouts_of_yolo(layout, names, tmp_path):
    made = photos(train=9)
    origin = Yolo("yolo/it", write_yolo(tmp_path / "it", made, layout, names))
    assert origin.class_names == (list(NAMES) if names else ["0", "1", "2"])
    assert ("class names that nothing says" in "".join(origin.notes)) == (not names)
    for split in made:
        wanted = expected(made, split, scaled=True)
        if not names:
            wanted = {k: [(str(NAMES.index(n)), box, crowd) for n, box, crowd in v] for k, v in wanted.items()}
        close(objects_of(origin, split), wanted)


def test_a_folder_without_splits(tmp_path):
    made = photos()["train"]
    folder = write_yolo(tmp_path / "it", {"": made}, names=())
    (folder / "classes.txt").write_text("ant\nbee\n cat \n")
    origin = Yolo("yolo/it", folder)
    assert origin.class_names == list(NAMES) and len(origin.photos("train")) == 5


def test_yolo_is_stored_in_pixels(tmp_path):
    made = photos(train=9)
    made["train"][0].orientation = 6
    made["train"][0].objects = [(1, 4.0, 2.0, 8.0, 12.0)]
    dataset = load("yolo/it", data_dir=tmp_path / "tfds", source_dir=write_yolo(tmp_path / "it", made))
    assert dataset.category_ids == (0, 1, 2)
    for truth in dataset.truths("train"):
        (each,) = (each for each in made["train"] if each.name == truth.file_name)
        height, width = each.size
        wanted = np.array([box[1:] for box in each.objects]).reshape(-1, 4)
        if each.orientation == 6:  # parts of the upright photograph
            assert (truth.height, truth.width) == (width, height)
            wanted = wanted * np.array([height / width, width / height] * 2)
        np.testing.assert_allclose(truth.objects.boxes, wanted, atol=1e-12)


def test_polygons_of_yolo(tmp_path):
    made = {"train": [Made("a.png", (40, 80), [(0, 1, 1, 2, 2)])]}
    folder = write_yolo(tmp_path / "it", made)
    (folder / "labels/train/a.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n2 0.1 0.1 0.2 0.1 0.1 0.3\n")
    dataset = load("yolo/it", data_dir=tmp_path / "tfds", source_dir=folder)
    (truth,) = dataset.truths("train")
    np.testing.assert_allclose(truth.objects.boxes, [[20, 10, 60, 30], [8, 4, 16, 12]], atol=1e-9)
    np.testing.assert_allclose(truth.objects.area, [40 * 20 / 2, 8 * 8 / 2], atol=1e-9)
    record = dataset.split("train").record(0)
    polygons = [json.loads(text) for text in record["objects"]["segmentation"]]
    np.testing.assert_allclose(polygons[0], [[20, 20, 40, 10, 60, 20, 40, 30]], atol=1e-9)


def test_yaml_files(tmp_path):
    folder = write_yolo(tmp_path / "it", photos())
    yaml = folder / "data.yaml"
    yaml.write_text("path: /content/it\ntrain: images/train\nval: [images/val]\ntest:\nnames: {0: yes, 1: no, 2: 3.0}")
    origin = Yolo("yolo/it", folder)
    assert origin.class_names == ["yes", "no", "3.0"] and list(origin.splits()) == ["train", "val"]
    yaml.write_text("train: ./val.txt\nnames: [a, b, c]")
    (folder / "val.txt").write_text("".join(f"./images/val/val{k}.jpg\n" for k in (2, 0)))
    assert [photo.name for photo in Yolo("yolo/it", folder).photos("train")] == ["val0.jpg", "val2.jpg"]
    yaml.write_text("train: /elsewhere/images\nval: /elsewhere/val\nnames: [a, b, c]")
    origin = Yolo("yolo/it", folder)
    assert len(origin.photos("val")) == 3 and "the yaml names and that are not in this folder" in "".join(origin.notes)
    for text, message in (
        ("names: [a, b, a, b, a]", "the yaml gives a name to two classes: 'a' to 0 and 2 and 4, 'b' to 1 and 3"),
        ("names: [a, ' ', b, '']", "the yaml names 4 classes, and the name of class 1, 3 is empty"),
        ("names: {0: a, 1: }", "the yaml names 2 classes, and the name of class 1 is empty"),
        ("names: {0: a, 2: b}", "the yaml's names have the numbers '0', '2', expected 0, 1, 2"),
        ("names: []", "the names of the classes are"),
        ("names: [[a]]", "the names of the classes are"),
        ("names: [a", "cannot be read as YAML"),
        ("names: !!python/object/apply:os.getcwd []", "the names of the classes are"),
    ):
        yaml.write_text(text)
        with pytest.raises(DataError, match=message):
            Yolo("yolo/it", folder)
    yaml.write_text("names: [a, b, c]")
    (folder / "other.yml").write_text("names: [d, e, f]")
    with pytest.raises(DataError, match="several files name classes: 'data.yaml', 'other.yml'"):
        Yolo("yolo/it", folder)


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_class_names_of_any_characters(kind, tmp_path):
    """What XML and YAML can hold of odd names is a name and nothing else."""
    names = tuple(name for name in ODD if name.isprintable() and name == name.strip())
    objects = [(label, 1, 2, 8, 9) for label in range(len(names))]
    made = {"train": [Made("a.jpg", (20, 30), objects)]}
    if kind == "yolo":
        origin = Yolo("yolo/it", write_yolo(tmp_path, made, names=names))
        assert origin.class_names == list(names)
        return
    folder = write_voc(tmp_path, {"train": [Made("a.jpg", (20, 30), [])]})
    from photo_sets import xml

    (folder / "Annotations/a.xml").write_text(xml(made["train"][0], names=names), "utf-8")
    origin = Voc("voc/it", folder)
    assert origin.class_names == sorted(names)
    assert [origin.class_names[each.label] for each in origin.photos("train")[0].objects] == list(names)


def test_what_belongs_to_no_image_is_noted(tmp_path):
    folder = write_voc(tmp_path / "voc", photos())
    (folder / "Annotations/more.xml").write_text((folder / "Annotations/train1.xml").read_text())
    (note,) = (line for line in Voc("voc/it", folder).notes if "annotations of no image" in line)
    assert note.endswith(f"left out: 1 ({folder}/Annotations/more.xml)")
    folder = write_yolo(tmp_path / "yolo", photos())
    for name, text in (("more", "0 0.5 0.5 0.2 0.1\n"), ("empty", ""), ("list", "images/train/train0.jpg\n")):
        (folder / f"labels/train/{name}.txt").write_text(text)
    (folder / "labels/train/classes.txt").write_text("ant\nbee\ncat\n")
    notes = Yolo("yolo/it", folder).notes
    (note,) = (line for line in notes if "texts of no image" in line)
    assert note.endswith(f"left out: 1 ({folder}/labels/train/more.txt)")
    bare = [each.name for each in photos()["train"] if not (each.objects or each.color % 2)]
    told = [line for line in notes if "images of train without a .txt" in line]
    assert len(told) == len(bare[:1]) and all(name in told[0] for name in bare)


def test_a_file_of_class_names_counts_its_lines(tmp_path):
    folder = write_yolo(tmp_path, photos(), names=())
    (folder / "classes.txt").write_text("\ufeffant\nbee\ncat\n\n")
    assert Yolo("yolo/it", folder).class_names == ["ant", "bee", "cat"]
    for text, message in (
        ("ant\n\nbee\ncat\n", "classes.txt names 4 classes, and the name of class 1 is empty"),
        ("ant\nbee\nant\n", "classes.txt gives a name to two classes: 'ant' to 0 and 2"),
    ):
        (folder / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            Yolo("yolo/it", folder)


@pytest.mark.parametrize("origin", [Voc, Yolo])
def test_folders_without_a_use(origin, tmp_path):
    with pytest.raises(DataError, match="expected"):
        origin(f"{origin.prefix}it", tmp_path)
    with pytest.raises(DataError, match="expected a folder"):
        origin(f"{origin.prefix}it", tmp_path / "nothing")


def test_all_three_forms_store_the_same(tmp_path):
    """The same photographs and objects, from COCO's JSON, XML and text files, give the same targets."""
    made = photos(train=9)
    seen = []
    for kind, write in (("coco_json", write_coco), ("voc", write_voc), ("yolo", write_yolo)):
        dataset = load(f"{kind}/it", data_dir=tmp_path / "tfds", source_dir=write(tmp_path / kind, made))
        truths = {truth.file_name: truth for truth in dataset.truths("train")}
        seen.append([(truths[each.name].objects.boxes, truths[each.name].objects.labels) for each in made["train"]])
    for others in zip(*seen, strict=True):
        for boxes, labels in others[1:]:
            np.testing.assert_allclose(boxes, others[0][0], atol=1e-9)
            np.testing.assert_array_equal(labels, others[0][1])
