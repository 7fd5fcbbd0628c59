import shutil

import forked
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from aa_flax.data import DataError, load
from aa_flax.data.photo import load_photo
from aa_flax.data.sets.own import stored_name

CLASSES = ("ant", "bee", "cat")


def picture(number, height=9, width=11):
    """Return an image of one grey level that encodes its number; JPEG keeps it to a few levels."""
    return Image.fromarray(np.full((height, width, 3), 10 * number, np.uint8))


def fill(folder, split, per_class=4):
    for label, name in enumerate(CLASSES):
        place = folder / split / name
        place.mkdir(parents=True)
        for number in range(per_class):
            suffix = (".jpg", ".png", ".webp", ".JPEG")[number % 4]
            picture(per_class * label + number, height=9 + number).save(place / f"image{number}{suffix}")
        (place / ".hidden").write_text("left alone")
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = fill(fill(tmp_path / "photos", "train"), "val", per_class=2)
    (folder / "README.txt").write_text("files beside the folders are left alone")
    return folder


def opened(folder, tmp_path, name="image_folder/mine"):
    return load(name, data_dir=tmp_path / "tfds", source_dir=folder)


def test_every_image_byte_for_byte(photos, tmp_path):
    dataset = opened(photos, tmp_path)
    assert dataset.class_names == CLASSES and dataset.image_shape == (None, None, 3)
    assert dataset.splits == {"train": 12, "val": 6}
    source = dataset.split("train")
    stored = {(source._records[i]["image"], source[i]["label"]) for i in range(12)}
    files = {
        (path.read_bytes(), CLASSES.index(path.parent.name)) for path in photos.glob("train/*/image*") if path.is_file()
    }
    assert stored == files
    # The order is random, so that a part of a split has every class.
    assert {example["label"] for example in dataset.split("train[:60%]")} == {0, 1, 2}


def test_prepared_once_then_needs_no_folder(photos, tmp_path):
    first = opened(photos, tmp_path)
    shutil.move(photos, tmp_path / "elsewhere")
    again, alone = opened(tmp_path / "elsewhere", tmp_path), load("image_folder/mine", data_dir=tmp_path / "tfds")
    assert first.fingerprint == again.fingerprint == alone.fingerprint
    assert stored_name("image_folder/mine") not in tfds.list_builders(with_community_datasets=False)


def test_two_folders_are_told_apart(photos, tmp_path):
    first = opened(photos, tmp_path)
    picture(3, height=20).save(photos / "train" / "bee" / "one_more.png")
    with pytest.raises(DataError, match=r"other files than those that were prepared \(train/bee\); .* remove .*mine"):
        opened(photos, tmp_path)
    other = opened(photos, tmp_path, "image_folder/Other_2")
    assert other.splits["train"] == 13 and other.fingerprint != first.fingerprint
    assert load("image_folder/mine", data_dir=tmp_path / "tfds").splits["train"] == 12


def test_a_folder_without_splits(tmp_path):
    fill(tmp_path, "photos")
    assert opened(tmp_path / "photos", tmp_path).splits == {"train": 12}


def test_stored_as_a_viewer_shows_it(tmp_path):
    """The network trains on the same orientation that `aa_flax.predict` gives it."""
    fill(tmp_path, "photos", per_class=1)
    ant = tmp_path / "photos" / "ant"
    for path in ant.iterdir():
        path.unlink()
    half = np.zeros((16, 8, 3), np.uint8)
    half[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF: turn a quarter clockwise
    Image.fromarray(half).save(ant / "turned.jpg", exif=exif, quality=95)
    alpha = np.dstack([half, np.full((16, 8), 0, np.uint8)])
    Image.fromarray(alpha).save(ant / "transparent.png")
    Image.fromarray(half[..., 0].astype(np.uint16) * 257).save(ant / "deep.png")
    Image.fromarray(half).save(ant / "other_format.bmp")
    Image.fromarray(half[..., 0]).save(ant / "grey.png")
    Image.new("CMYK", (8, 16), (0, 200, 0, 0)).save(ant / "print.jpg")
    dataset = opened(tmp_path / "photos", tmp_path)
    found = [example["image"] for example in dataset.split("train") if example["label"] == 0]
    expected = [load_photo(p, (8, 16) if p.name == "turned.jpg" else (16, 8), 3) for p in ant.iterdir()]
    assert len(found) == len(expected) == 6
    for image in expected:
        same_shape = [other for other in found if other.shape == image.shape]
        # Encoded again, a JPEG moves by a few levels.
        assert min(np.abs(other.astype(int) - image).max() for other in same_shape) <= 6


def spoil(folder, how):
    if how == "empty class":
        for path in (folder / "val" / "bee").iterdir():
            path.unlink()
    elif how == "class missing":
        shutil.rmtree(folder / "val" / "cat")
    elif how == "class too many":
        shutil.copytree(folder / "train" / "ant", folder / "train" / "dog")
    elif how == "one class":
        for split in ("train", "val"):
            for name in CLASSES[1:]:
                shutil.rmtree(folder / split / name)
    elif how == "torn":
        path = folder / "train" / "cat" / "image1.png"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no train":
        shutil.rmtree(folder / "train")
    elif how == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty class", "val: no image in the class 'bee'"),
        ("class missing", "photos: 'train' and 'val' differ in their classes: 'cat'"),
        ("class too many", "photos: 'train' and 'val' differ in their classes: 'dog'"),
        ("one class", "train: 1 folders of classes, expected at least 2"),
        ("torn", "train/cat/image1.png: the image cannot be decoded"),
        ("no train", "photos: no folder 'train' beside 'val'"),
        ("nothing", "photos: 0 folders of classes, expected at least 2"),
    ],
)
def test_faulty_folders(photos, tmp_path, how, message):
    spoil(photos, how)
    with pytest.raises(DataError, match=message) as error:
        opened(photos, tmp_path)
    assert "\n" not in str(error.value)
    # Nothing that looks prepared is left.
    with pytest.raises(DataError, match="image_folder/mine is not prepared .* name the folder that holds train/CLASS"):
        load("image_folder/mine", data_dir=tmp_path / "tfds")


def damage(photos):
    """Damage four images of three classes in two splits, and return their files."""
    torn, empty = photos / "train" / "cat" / "image1.png", photos / "val" / "bee" / "image0.jpg"
    text, gone = photos / "train" / "ant" / "image2.webp", photos / "train" / "ant" / "link.jpg"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    empty.write_bytes(b"")
    text.write_text("no image")
    gone.symlink_to(photos / "nowhere.jpg")
    return torn, empty, text, gone


def test_all_damaged_images_are_named_at_once(photos, tmp_path):
    files = damage(photos)
    with pytest.raises(DataError) as error:
        opened(photos, tmp_path)
    message = str(error.value)
    *damaged, gone = files
    assert all(f"{file}: the image cannot be decoded (" in message for file in damaged)
    assert f"{gone}: cannot be read (No such file or directory)" in message
    assert "BytesIO" not in message
    first, *faults, last = message.split("\n")
    assert first == f"{photos}: 4 faults" and len(faults) == 4
    assert last.startswith("of 19 images; ") and "--skip_damaged" in last
    with pytest.raises(DataError, match="is not prepared"):
        load("image_folder/mine", data_dir=tmp_path / "tfds")


def test_damaged_images_are_left_out_on_request(photos, tmp_path, capfd):
    files = damage(photos)
    where = [f"--data_dir={tmp_path}/tfds", f"--source_dir={photos}"]
    done = forked.run("-m", "aa_flax.data", "prepare", "image_folder/mine", *where)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 6 and all(str(f) in done.stderr for f in files)
    done = forked.run("-m", "aa_flax.data", "prepare", "image_folder/mine", "--skip_damaged", *where)
    assert done.returncode == 0 and done.stdout.endswith("train 10, val 5; 3 classes\n"), done.stderr
    others, *left_out = done.stderr.splitlines()
    assert others == f"{photos}: files left out: 1 (1 .txt)"
    for kind, some in (("damaged", files[:3]), ("unreadable", files[3:])):
        (line,) = (line for line in left_out if line.startswith(f"{photos}: {kind} images, left out: {len(some)} ("))
        assert all(str(file) in line for file in some)
    capfd.readouterr()
    dataset = opened(photos, tmp_path)  # prepared, and the files are the same
    assert dataset.splits == {"train": 10, "val": 5} and capfd.readouterr().err == ""
    assert {example["label"] for example in dataset.split("val")} == {0, 1, 2}
    files[0].write_bytes((photos / "train" / "cat" / "image0.jpg").read_bytes())
    with pytest.raises(DataError, match=r"other files than those that were prepared \(train/cat\)"):
        opened(photos, tmp_path)


def test_a_class_whose_images_are_all_damaged_is_an_error(photos, tmp_path):
    for file in (photos / "val" / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no image of 'val' can be decoded in the class 'bee'"):
        load("image_folder/mine", data_dir=tmp_path, source_dir=photos, skip_damaged=True)
    with pytest.raises(DataError, match="skip_damaged: only image_folder/NAME, .* may leave out images"):
        load("fashion_mnist", data_dir=tmp_path, source_dir=photos, skip_damaged=True)


@pytest.mark.parametrize("name", ["image_folder", "image_folder/", "image_folder/a b", "image_folder/a/b"])
def test_a_name_of_its_own(photos, tmp_path, name):
    with pytest.raises(DataError, match=r"a name of its own, such as image_folder/flowers|expected image_folder/NAME"):
        opened(photos, tmp_path, name)


def test_an_image_that_occurs_twice_is_noted(tmp_path, capsys):
    folder = fill(tmp_path / "photos", "train")
    (folder / "val").mkdir()
    for name in CLASSES:
        (folder / "val" / name).mkdir()
        picture(12 + CLASSES.index(name)).save(folder / "val" / name / "own.png")
    shutil.copy(folder / "train" / "ant" / "image1.png", folder / "train" / "bee" / "copy.png")
    shutil.copy(folder / "train" / "cat" / "image2.webp", folder / "val" / "cat" / "again.webp")
    opened(folder, tmp_path)
    told = capsys.readouterr().err
    for pair in ("ant/image1.png", "bee/copy.png"), ("cat/image2.webp", "cat/again.webp"):
        assert any(" = ".join(each) in told for each in (pair, pair[::-1])), told
    assert "the same photograph twice in train: 1 (" in told and "the same photograph in train and val: 1 (" in told
