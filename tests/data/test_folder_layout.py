"""Folders of images as people have them, by the files that they hold."""

import os
from pathlib import Path

import pytest

from aa_flax.data import DataError
from aa_flax.data.sets.folder_layout import lay_out

CLASSES = ("ant", "bee", "cat")


def make(folder, *paths):
    """Make empty files, where {} in a path stands for each class in turn."""
    for path in paths:
        for name in CLASSES if "{}" in path else ("",):
            file = folder / path.format(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder


def found(folder):
    """Return the paths of the files by split and class, and the line about what is left out without its folder."""
    layout = lay_out(folder)
    splits = {
        split: {name: [str(path.relative_to(folder)) for path in paths] for name, paths in classes.items()}
        for split, classes in layout.splits.items()
    }
    return splits, layout.left_out.removeprefix(f"{folder}: ")


@pytest.mark.parametrize(
    ("paths", "splits", "left_out"),
    [
        # torchvision's ImageFolder, with everything that it passes over
        (["{}/1.jpg"], {"train": "{}/1.jpg"}, ""),
        (["train/{}/1.jpg", "val/{}/2.png"], {"train": "train/{}/1.jpg", "val": "val/{}/2.png"}, ""),
        (["{}/a/b/1.JPEG"], {"train": "{}/a/b/1.JPEG"}, ""),
        (
            ["{}/1.jpg", "{}/notes.txt", "README.md", "{}/Thumbs.db", "list.txt", "1.jpg"],
            {"train": "{}/1.jpg"},
            "files left out: 9 (4 .txt, 3 .db, 1 .md, 1 .jpg)",
        ),
        (["{}/1.jpg", "{}/1.HEIC", "{}/film.mov"], {"train": "{}/1.jpg"}, "files left out: 6 (3 .heic, 3 .mov)"),
        # what systems and programs leave behind
        (
            ["{}/1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/{}/._1.jpg", "{}/@eaDir/1.jpg", "{}/._1.jpg", ".git/x"],
            {"train": "{}/1.jpg"},
            "",
        ),
        # splits by their spelling
        (["Train/{}/1.jpg", "Test/{}/2.jpg"], {"train": "Train/{}/1.jpg", "test": "Test/{}/2.jpg"}, ""),
        (
            ["TRAINING/{}/1.jpg", "Validation/{}/2.jpg"],
            {"train": "TRAINING/{}/1.jpg", "validation": "Validation/{}/2.jpg"},
            "",
        ),
        (
            ["training_set/{}/1.jpg", "test_set/{}/2.jpg"],
            {"train": "training_set/{}/1.jpg", "test": "test_set/{}/2.jpg"},
            "",
        ),
        (
            ["train-images/{}/1.jpg", "val-images/{}/2.jpg"],
            {"train": "train-images/{}/1.jpg", "val": "val-images/{}/2.jpg"},
            "",
        ),
        (
            ["seg_train/seg_train/{}/1.jpg", "seg_test/seg_test/{}/2.jpg", "seg_pred/seg_pred/3.jpg"],
            {"train": "seg_train/seg_train/{}/1.jpg", "test": "seg_test/seg_test/{}/2.jpg"},
            "files left out: 1 (1 .jpg; the folders 'seg_pred')",
        ),
        (
            ["train/{}/1.jpg", "extra/{}/2.jpg"],
            {"train": "train/{}/1.jpg"},
            "files left out: 3 (3 .jpg; the folders 'extra')",
        ),
        (
            ["train/{}/1.jpg", "test/2.jpg", "test/3.jpg"],
            {"train": "train/{}/1.jpg"},
            "files left out: 2 (2 .jpg; the split 'test', whose images have no classes)",
        ),
        # images beside annotations, and folders in folders
        (
            ["Images/{}/1.jpg", "Annotation/{}/1"],
            {"train": "Images/{}/1.jpg"},
            "files left out: 3 (3 without a suffix)",
        ),
        (
            ["images/{}/1.jpg", "masks/{}/1.png"],
            {"train": "images/{}/1.jpg"},
            "files left out: 3 (3 .png)",
        ),
        (  # Food-101
            ["images/{}/1.jpg", "meta/train.txt", "README.txt"],
            {"train": "images/{}/1.jpg"},
            "files left out: 2 (2 .txt)",
        ),
        (  # Caltech-101
            ["101_ObjectCategories/{}/1.jpg", "Annotations/{}/1.mat"],
            {"train": "101_ObjectCategories/{}/1.jpg"},
            "files left out: 3 (3 .mat)",
        ),
        (  # CUB-200
            ["CUB/images/001.{}/1.jpg", "CUB/parts/parts.txt", "segmentations/001.{}/1.png", "attributes.txt"],
            {"train": "CUB/images/001.{}/1.jpg"},
            "files left out: 5 (3 .png, 2 .txt)",
        ),
        (  # ImageNet, whose validation images have no folders
            ["Data/CLS-LOC/train/{}/1.JPEG", "Data/CLS-LOC/val/1.JPEG", "Annotations/CLS-LOC/train/{}/1.xml"],
            {"train": "Data/CLS-LOC/train/{}/1.JPEG"},
            "files left out: 4 (3 .xml, 1 .jpeg; the split 'val', whose images have no classes)",
        ),
        (["archive/pets/{}/1.jpg"], {"train": "archive/pets/{}/1.jpg"}, ""),
        (
            ["data/Train/{}/1.jpg", "data/Valid/{}/1.jpg", "data/labels.csv"],
            {"train": "data/Train/{}/1.jpg", "valid": "data/Valid/{}/1.jpg"},
            "files left out: 1 (1 .csv)",
        ),
        (["train/images/{}/1.jpg", "train/labels/{}/1.txt"], {"train": "train/images/{}/1.jpg"}, "files left out: 3"),
        (["Photos/train/{}/1.ppm"], {"train": "Photos/train/{}/1.ppm"}, ""),
    ],
)
def test_layouts(paths, splits, left_out, tmp_path):
    folder = make(tmp_path / "it", *paths)
    expected = {}
    for split, path in splits.items():
        (named,) = (part for part in Path(path).parts if "{}" in part)
        expected[split] = {named.format(name): [path.format(name)] for name in CLASSES}
    by_split, line = found(folder)
    assert by_split == expected
    assert line.startswith(left_out) and bool(line) == bool(left_out) and "\n" not in line


def test_tiny_imagenet(tmp_path):
    """Its validation images lie in one folder, beside a file with their classes; its test images have none."""
    folder = make(tmp_path, "test/images/test_0.JPEG", "wnids.txt", "words.txt")
    make(folder, *[f"train/{name}/images/{name}_{i}.JPEG" for name in CLASSES for i in (0, 1)])
    make(folder, *[f"train/{name}/{name}_boxes.txt" for name in CLASSES])
    make(folder, *[f"val/images/val_{i}.JPEG" for i in range(4)])
    labels = ("bee", "cat", "ant", "bee")
    text = "".join(f"val_{i}.JPEG\t{label}\t0\t32\t44\t62\n" for i, label in enumerate(labels))
    (folder / "val" / "val_annotations.txt").write_text(text)
    splits, line = found(folder)
    assert splits["train"]["cat"] == ["train/cat/images/cat_0.JPEG", "train/cat/images/cat_1.JPEG"]
    assert {name: [Path(path).name for path in paths] for name, paths in splits["val"].items()} == {
        "ant": ["val_2.JPEG"],
        "bee": ["val_0.JPEG", "val_3.JPEG"],
        "cat": ["val_1.JPEG"],
    }
    assert set(splits) == {"train", "val"} and "files left out: 7 (6 .txt, 1 .jpeg; the split 'test'" in line
    for wrong, message in (
        ("val_0.JPEG bee\n", "line 1: expected an image"),
        (text + "val_9.JPEG\tbee\n", "line 5: expected an image"),
        (text.replace("val_1.JPEG\tcat", ""), "line 2: expected an image"),
        ("val_0.JPEG\tbee\n", "no class for 'val_1.JPEG', 'val_2.JPEG', 'val_3.JPEG'"),
    ):
        (folder / "val" / "val_annotations.txt").write_text(wrong)
        with pytest.raises(DataError, match=rf"val_annotations\.txt: {message}"):
            lay_out(folder)


def test_classes_that_are_called_as_splits_or_annotations(tmp_path):
    splits, _ = found(make(tmp_path, "train/1.jpg", "bus/2.jpg", "test_tube/3.jpg"))
    masks, _ = found(make(tmp_path / "it", "cat/2024/1.jpg", "cat/2025/2.jpg", "masks/3.jpg"))
    assert masks == {"train": {"cat": ["cat/2024/1.jpg", "cat/2025/2.jpg"], "masks": ["masks/3.jpg"]}}
    assert splits == {"train": {"bus": ["bus/2.jpg"], "test_tube": ["test_tube/3.jpg"], "train": ["train/1.jpg"]}}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg"], "train: 0 folders of classes, .* 2 images in none"),
        (["images/cat_1.jpg", "annotations/trimaps/cat_1.png"], "no folders of classes; .* 'annotations', are annot"),
        (["train/{}/1.jpg", "Train/{}/1.jpg"], "'Train', 'train' are all the split 'train' by their names"),
        (["train/{}/1.jpg", "val/ant/1.jpg", "val/bee/1.jpg"], "'train' and 'val' differ in their classes: 'cat'"),
        (["train/{}/1.jpg", "val/{}/1.jpg", "val/dog/1.jpg"], "'train' and 'val' differ in their classes: 'dog'"),
        (["val/{}/1.jpg", "test/{}/1.jpg"], "no folder 'train' beside 'test', 'val'"),
        (["{}/1.jpg", "docs/readme.txt"], "no image in the class 'docs', only 1 .txt"),
        (["ant/1.heic", "ant/2.HEIC", "bee/1.jpg"], "no image in the class 'ant', only 2 .heic"),
        (["ant/a/1.jpg", "bee/notes.txt"], "no image in the class 'bee', only 1 .txt"),
        (["ant/1.jpg"], "folders of classes, expected at least 2"),
        (["1.jpg", "2.jpg"], "0 folders of classes, expected at least 2, and 2 images in none"),
    ],
)
def test_what_is_no_such_folder(paths, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        lay_out(make(tmp_path / "it", *paths))
    assert "\n" not in str(error.value)


def test_links(tmp_path):
    """Links to folders and files are followed, in a circle once; one that leads nowhere is a damaged image."""
    folder = make(tmp_path / "it", "{}/1.jpg")
    make(tmp_path / "elsewhere", "2.jpg")
    (folder / "ant" / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "bee" / "up").symlink_to(folder)
    (folder / "cat" / "3.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "cat" / "itself").symlink_to(folder / "cat" / "itself")
    (folder / "cat" / "4.jpg").symlink_to(folder / "cat" / "4.jpg")
    os.mkfifo(folder / "cat" / "pipe.jpg")
    splits, line = found(folder)
    assert splits["train"] == {
        "ant": ["ant/1.jpg", "ant/more/2.jpg"],
        "bee": ["bee/1.jpg"],
        "cat": ["cat/1.jpg", "cat/3.jpg", "cat/4.jpg"],
    }
    assert line == "files left out: 2 (1 without a suffix, 1 .jpg)"


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    folder, scandir = make(tmp_path / "it", "{}/1.jpg"), os.scandir

    def refuse(path):
        if Path(path).name == "bee":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("aa_flax.data.sets.folder_layout.os.scandir", refuse)
    with pytest.raises(DataError, match=r"bee: cannot be read \(Permission denied\)"):
        lay_out(folder)
