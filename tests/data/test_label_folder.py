"""Tests of data sets of photographs with label maps."""

import dataclasses
import json

import forked
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from image_files import chunk, png
from label_sets import COLORS, NAMES, folders, labelled, write_labelled, write_map, write_photo
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from aa_flax.config.schema import resolve
from aa_flax.data import Boxes, ClassLabel, DataError, LabelMap, load
from aa_flax.data.check import check
from aa_flax.data.label_maps import encode_label_map
from aa_flax.data.placement import resized
from aa_flax.data.preprocessing import Preprocessing, preprocessing_for
from aa_flax.data.sets.label_classes import read_classes
from aa_flax.data.sets.label_folder import LabelFolder
from aa_flax.data.sets.label_image import WrongForm, read_label_image
from aa_flax.data.sets.own import prepare
from aa_flax.data.shrink import Shrunk


def prepared(folder, tmp_path, **options):
    return load("label_folder/it", data_dir=tmp_path / "tfds", source_dir=folder, **options)


def require(dataset, made, spelled=None):
    """Require the photographs and labels of a data set to be those that were made."""
    for split, some in made.items():
        source = dataset.split((spelled or {}).get(split, split), LabelMap())
        found = {bytes(source.record(k)["image/filename"]).decode(): k for k in range(len(source))}
        assert {*found} == {each.name for each in some}
        for each in some:
            example = source[found[each.name]]
            np.testing.assert_array_equal(example["labels"], each.labels)
            np.testing.assert_array_equal(source.targets(found[each.name])["labels"], each.labels)
            far = abs(example["image"][..., None, :].astype(int) - COLORS.astype(int)).sum(-1)
            assert (far.argmin(-1) == each.values).mean() > 0.9  # a JPEG blurs colours at edges


@pytest.mark.parametrize("layout", ["ade20k", "camvid", "underscore", "within", "mmseg"])
def test_layouts(layout, tmp_path):
    made = labelled()
    dataset = prepared(write_labelled(tmp_path / "it", made, layout), tmp_path)
    assert dataset.class_names == NAMES and dataset.has_label_maps and not dataset.has_objects
    require(dataset, made, {"val": "validation"} if layout == "ade20k" else None)


@pytest.mark.parametrize("kind", ["palette", "palette and colours", "colours"])
def test_forms_of_maps(kind, tmp_path):
    form, classes = kind.split()[0], "colours" if "colours" in kind else "classes.txt"
    made = labelled()
    dataset = prepared(write_labelled(tmp_path / "it", made, "camvid", form, classes), tmp_path)
    require(dataset, made)
    assert dataset.class_colors == (tuple(map(tuple, COLORS[:3].tolist())) if classes == "colours" else ())


@pytest.mark.parametrize(("bits", "color"), [(1, 0), (2, 0), (4, 0), (8, 0), (2, 3), (4, 3)])
def test_values_of_few_bits_are_as_they_are(bits, color, tmp_path):
    """Pillow gives grey of 2 and 4 bits multiplied; palettes (colour 3) have numbers."""
    values = np.arange(3 * 8).reshape(3, 8) % min(2**bits, 4)
    before = [chunk(b"PLTE", bytes(range(12)))] if color == 3 else []
    (tmp_path / "map.png").write_bytes(png(values, bits, color, before))
    found = read_label_image(tmp_path / "map.png")
    np.testing.assert_array_equal(found.pixels, values)
    assert found.palette[:12] == (tuple(range(12)) if color == 3 else ())


def test_maps_of_other_forms(tmp_path):
    path = tmp_path / "map.png"
    for values, bits, color, message in (
        (np.arange(6).reshape(2, 3), 16, 0, "16 bits"),
        (np.arange(18).reshape(2, 3, 3), 16, 2, "16 bits"),
        (np.arange(12).reshape(2, 3, 2), 8, 4, "of the form LA"),
    ):
        path.write_bytes(png(values, bits, color))
        with pytest.raises(WrongForm, match=f"map.png: a label map .*{message}"):
            read_label_image(path)


def test_what_a_network_expects_is_kept_as_json(tmp_path):
    dataset = prepared(write_labelled(tmp_path / "it", labelled(), "camvid", classes="colours"), tmp_path)
    config = resolve({"data": {"crop": "scaled", "image_size": (50, 70), "scale_sides": (33, 40)}})
    made = preprocessing_for(config, dataset)
    assert made.class_colors == dataset.class_colors and made.view().framing(20, 30).size == (27, 40)
    assert Preprocessing.from_json(json.loads(json.dumps(dataclasses.asdict(made)))) == made


def test_without_a_file_classes_are_numbers(tmp_path, capsys):
    made = labelled()
    dataset = prepared(write_labelled(tmp_path / "it", made, "camvid", classes=""), tmp_path)
    assert dataset.class_names == ("class 0", "class 1", "class 2", "class 3")
    told = capsys.readouterr().err
    assert "classes that no classes.txt names, so that they are numbers: 4 (class 0; class 1; class 2; ...)" in told
    found = dataset.split("train").targets(0)["labels"]
    assert 255 not in found


def test_the_value_255_is_never_a_class(tmp_path):
    folder = write_labelled(tmp_path / "it", labelled(), "camvid", classes="")
    for path in folder.glob("*annot/*.png"):
        values = np.asarray(Image.open(path))
        write_map(path, np.where(values == 0, 255, 0).astype(np.uint8))
    with pytest.raises(DataError, match="the only value of the label maps is 0, besides 255, which stands for no"):
        LabelFolder("label_folder/it", folder)


def test_classes_of_ade20k(tmp_path):
    made = labelled()
    folder = write_labelled(tmp_path / "ADEChallengeData2016", made, classes="")
    rows = ["1\t0.5\t2\t3\t1\twall", "2\t0.1\t2\t3\t0\tbuilding, edifice", "3\t0.1\t2\t3\t1\tsky"]
    (folder / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows, ""]))
    dataset = prepared(folder, tmp_path)
    assert dataset.class_names == ("wall", "building", "sky")
    source = dataset.split("train")
    for index in range(len(source)):
        name = bytes(source.record(index)["image/filename"]).decode()
        values = next(each.values for each in made["train"] if each.name == name).astype(int)
        np.testing.assert_array_equal(source.targets(index)["labels"], np.where(values == 0, 255, values - 1))


def test_files_of_classes(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(["a b", None, {"name": "c", "color": [1, 2, 3]}]))
    found = read_classes(tmp_path)
    assert (found.names, found.colors, found.labels) == (["a b", "c"], [None, (1, 2, 3)], [0, 255, 1])
    (tmp_path / "classes.txt").write_text("\ufeffa1 2 3 4\n- 9 9 9\nb $x$ 0 0 255\nroad 2\n")
    with pytest.raises(DataError, match=r"both classes.txt and classes.json name the classes"):
        read_classes(tmp_path)
    (tmp_path / "classes.json").unlink()
    found = read_classes(tmp_path)
    assert (found.names, found.labels) == (["a1", "b $x$", "road 2"], [0, 255, 1, 2])
    assert found.of_color == {(2, 3, 4): 0, (9, 9, 9): 255, (0, 0, 255): 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\n", "the name of value 1 is empty"),
        ("a\nb\na\n", "two values have the name 'a'"),
        ("a 1 2 3\nb 1 2 3\n", r"two classes have the colour \(1, 2, 3\)"),
        ("a 1 2 300\n", r"\(1, 2, 300\) is no colour"),
        ("a\n0 sky\n", "line 2 is '0 sky', expected \"name\""),
        ("# names\na\n", "line 1 is '# names'"),
        ("sky 0,0,255\n", "line 1 is 'sky 0,0,255'"),
        ("sky -1 0 0\n", "line 1 is 'sky -1 0 0'"),
        ("sky 0 0 255 1\n", "line 1 is 'sky 0 0 255 1'"),
        ("-\n", "0 classes and 1 values"),
        ("\n".join(map(str, range(256))), "256 classes and 256 values of maps, expected 1 to 255"),
    ],
)
def test_faulty_files_of_classes(text, message, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=rf"classes.txt: .*{message}"):
        read_classes(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", "[", '[{"name": "a", "color": [1, 2]}]', '[{"color": [1, 2, true]}]'])
def test_faulty_json_of_classes(text, tmp_path):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match=r"classes.json: "):
        read_classes(tmp_path)


def refused(folder, message, **options):
    origin = LabelFolder("label_folder/it", folder, **options)
    with pytest.raises(DataError, match=message):
        for examples in origin.splits().values():
            list(examples)


def test_maps_that_do_not_fit_are_told_at_once(tmp_path):
    made = labelled(train=16)
    folder = write_labelled(tmp_path / "it", made, "camvid")
    maps = folder / "trainannot"
    for number in range(12):
        write_map(maps / f"train{number}.png", np.zeros((3, 5 + number), np.uint8))
    values = made["train"][12].values.copy()
    values[:2, :3] = 9
    write_map(maps / "train12.png", values)
    Image.fromarray(values.astype(np.uint16)).save(maps / "train13.png")
    write_map(maps / "train14.png", made["train"][14].values, "colours")
    (maps / "train15.png").write_bytes((maps / "train15.png").read_bytes()[:50])
    (folder / "valannot" / "val1.png").unlink()
    origin = LabelFolder("label_folder/it", folder)
    with pytest.raises(DataError) as raised:
        for examples in origin.splits().values():
            list(examples)
    first, *lines = str(raised.value).split("\n")
    assert first == f"{folder}: 17 faults" and len(lines) == 11 and lines[-1] == "and 7 more: sizes 7"
    text = "\n".join(lines)
    for wanted in (
        "train12.png: 6 pixels have the value 9, expected 0 to 3, or 255 for no class",
        "train13.png: a label map of 16 bits, expected 8",
        "train14.png: its pixels are colours, expected numbers of classes",
        "train15.png: the label map cannot be decoded",
        "val1.jpg: one of the photographs without a map",
    ):
        assert text.count(wanted) == 1
    assert "(width × height), and train" in text


def test_colours_that_stand_for_nothing(tmp_path):
    made = labelled()
    folder = write_labelled(tmp_path / "it", made, "camvid", "colours", "colours")
    pixels = COLORS[made["train"][1].values]
    pixels[0, :4] = [1, 2, 3]
    Image.fromarray(pixels).save(folder / "trainannot" / "train1.png")
    refused(folder, r"train1.png: 4 pixels have colours of no class, such as \(1, 2, 3\)")
    # A palette whose colours are those of the classes in another order.
    picture = Image.fromarray(made["train"][1].values)
    picture.putpalette(COLORS[::-1].reshape(-1).tolist())
    picture.save(folder / "trainannot" / "train1.png")
    refused(folder, "train1.png: the colours of its palette are those of other classes than its values stand for")


def test_photographs_and_maps_without_each_other(tmp_path, capsys):
    made = labelled()
    folder = write_labelled(tmp_path / "it", made, "camvid")
    (folder / "trainannot" / "train2.png").unlink()
    (folder / "val" / "val1.jpg").unlink()
    write_photo(folder / "test" / "x.jpg", made["val"][0].values)
    with pytest.raises(DataError) as raised:
        prepared(folder, tmp_path)
    text = str(raised.value)
    assert "2 faults" in text and "train2.jpg: one of the photographs without a map" in text
    assert "val1.png: one of the maps without a photograph" in text and "--skip_damaged" in text
    dataset = prepared(folder, tmp_path, skip_damaged=True)
    assert dict(dataset.splits) == {"train": 4, "val": 2}
    told = capsys.readouterr().err
    assert "folders of photographs without one of maps, left out: 1" in told
    assert "photographs without a map, left out: 1" in told and "maps without a photograph, left out: 1" in told


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_maps_turn_with_their_photographs(orientation, tmp_path, capsys):
    """A map drawn over the pixels as they are stored turns with them; one of the upright photograph stays."""
    made = labelled()
    folder = write_labelled(tmp_path / "it", made, "camvid")
    turned = {6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).T, 3: lambda x: np.rot90(x, 2)}[orientation]
    stored, upright = made["train"][1], made["train"][2]
    stored.values = np.arange(4, dtype=np.uint8).repeat(8 * 13).reshape(32, 13)
    write_photo(folder / "train" / stored.name, stored.values, orientation)
    write_map(folder / "trainannot" / "train1.png", stored.values)
    # The file's pixels are such that turning them gives the upright photograph.
    back = {6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x.T, 2), 3: turned}[orientation](upright.values)
    write_photo(folder / "train" / upright.name, back, orientation)
    if orientation == 3:  # a map of the same size is taken as of the upright photograph
        write_map(folder / "trainannot" / "train1.png", turned(stored.values))
    stored.values = np.ascontiguousarray(turned(stored.values))
    require(prepared(folder, tmp_path), made)
    told = capsys.readouterr().err
    assert ("turned by EXIF to the same size" if orientation == 3 else "maps turned with their photographs") in told


def test_a_split_in_which_no_pixel_has_a_class_has_no_score(tmp_path):
    made = labelled()
    for each in made["val"]:
        each.values[:] = 3
    dataset = prepared(write_labelled(tmp_path / "it", made, "camvid"), tmp_path)
    dataset.split("train").annotations.require_truths()
    with pytest.raises(DataError, match=r"\[val\]: no pixel has a class, so segmentations have no score"):
        dataset.split("val").annotations.require_truths()


def test_check_of_a_prepared_folder(tmp_path, capsys):
    made = labelled()
    made["val"][1].values[:] = 3
    dataset = prepared(write_labelled(tmp_path / "it", made, "camvid"), tmp_path)
    assert "images of val whose pixels are all of no class, kept: 1 (val1.jpg)" in capsys.readouterr().err
    report = check(dataset.folder)
    assert report.findings == [] and str(report).endswith("; 1 images whose pixels are all of no class")
    (path,) = dataset.folder.glob("*train.array_record*")
    reader = ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    faulty = []
    for number, record in enumerate(records):
        example = tf_example_pb2.Example.FromString(record)
        stored = example.features.feature["label_map"].bytes_list.value
        stored[0] = [
            encode_label_map(np.zeros((2, 3), np.uint8)),
            encode_label_map(np.full((2, 3), 3, np.uint8)),
            stored[0][:50],
            *[stored[0]] * 2,
        ][number]
        faulty.append(example.SerializeToString())
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in faulty:
        writer.write(record)
    writer.close()
    size, value, damaged = [line for line in check(dataset.folder).findings if "no example of class" not in line]
    assert "example 0 of" in size and "a label map of 3 × 2 for an image of" in size
    assert "example 1 of" in value and "the label map has the class 3, expected 0 to 2, or 255 for none" in value
    assert "example 2 of" in damaged and "the label map cannot be decoded" in damaged
    with pytest.raises(DataError, match=r"example 0 of .*a label map of 3 × 2 for an image of"):
        dataset.split("train").part(0, resized((5, 5)))


def test_other_files_than_were_prepared(tmp_path):
    made = labelled()
    folder = write_labelled(tmp_path / "it", made, "camvid")
    one = prepared(folder, tmp_path)
    assert prepared(folder, tmp_path).fingerprint == one.fingerprint
    values = made["train"][0].values.copy()
    values[-1, -1] = 1 - min(1, values[-1, -1])
    write_map(folder / "trainannot" / "train0.png", values)
    with pytest.raises(DataError, match=r"other files than those that were prepared \(train/label_maps\)"):
        prepared(folder, tmp_path)


def test_the_same_photograph_in_two_splits(tmp_path):
    made = labelled()
    made["val"][0].values = made["train"][3].values
    dataset = prepared(write_labelled(tmp_path / "it", made, "camvid"), tmp_path)
    assert dataset.shared("train", "val") == 1
    assert any("the same photograph is in 'train' and in 'val': 1" in line for line in check(dataset.folder).findings)


@pytest.mark.parametrize("targets", [ClassLabel(), Boxes()])
def test_targets_of_other_tasks(targets, tmp_path):
    dataset = prepared(write_labelled(tmp_path / "it", labelled(), "camvid"), tmp_path)
    with pytest.raises(DataError, match=r"segmentation|no data set of detection"):
        dataset.split("train", targets)


def test_folders_of_other_forms(tmp_path):
    with pytest.raises(DataError, match="no photographs with label maps; expected images/train"):
        LabelFolder("label_folder/it", tmp_path)
    with pytest.raises(DataError, match="expected a folder with images/train"):
        LabelFolder("label_folder/it", tmp_path / "none")
    folder = write_labelled(tmp_path / "it", labelled(), "camvid")
    images, _ = folders(folder, "train", "camvid")
    images.rename(folder / "Training")
    images.with_name("trainannot").rename(folder / "Training_labels")
    made = labelled()
    write_labelled(folder, {"train": made["train"]}, "camvid")
    with pytest.raises(DataError, match="are both the split 'train' by their names"):
        LabelFolder("label_folder/it", folder)


def test_shrunk_maps_are_those_of_shrunk_photographs(tmp_path):
    dataset = prepared(write_labelled(tmp_path / "it", labelled(), "camvid", classes="colours"), tmp_path)
    origin = Shrunk(dataset.folder, 19, 95)
    prepare(origin, tmp_path / "tfds")
    small = load(origin.stored_name, data_dir=tmp_path / "tfds")
    assert (small.splits, small.class_names) == (dataset.splits, NAMES) and small.class_colors == dataset.class_colors
    sizes = set()
    for before, after in zip(dataset.split("train"), small.split("train"), strict=True):
        sizes.add(after["labels"].shape)
        assert min(after["labels"].shape) == min(19, *before["labels"].shape)
        placement = resized(after["labels"].shape)(*before["labels"].shape).as_array()
        np.testing.assert_array_equal(after["labels"], LabelMap().placed(before, placement)["labels"])
    assert len(sizes) > 1
    assert check(small.folder).findings == []


@pytest.mark.thorough
def test_commands(tmp_path):
    def command(*arguments):
        done = forked.run("-m", "aa_flax.data", *arguments, f"--data_dir={tmp_path}/tfds")
        return done.returncode, done.stdout, done.stderr

    folder = write_labelled(tmp_path / "it", labelled(), "camvid")
    assert command("prepare", "label_folder/it", f"--source_dir={folder}") == (
        0,
        f"{tmp_path}/tfds/aa_label_folder_it/1.0.0: train 5, val 3; 3 classes\n",
        "",
    )
    assert command("check", "label_folder/it") == (0, "0 findings: 8 of 8 examples looked at, in 2 files\n", "")
    picture = tmp_path / "x.png"
    told = f"{picture}: 3 examples of aa_label_folder_it[val]\n"
    assert command("draw", "label_folder/it", "--split=val", f"--out={picture}") == (0, told, "")
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 300
    assert command("draw", "label_folder/it", "--out=x.jpg")[2].startswith("error: --out: expected a name that ends in")
    missing = command("prepare", "label_folder/other")[2]
    assert "name the folder that holds images/train/*.jpg and annotations/train/*.png once as source_dir" in missing
