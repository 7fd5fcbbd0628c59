import io

import forked
import numpy as np
import pytest
from PIL import Image

from aa_flax.data import DataError, load
from aa_flax.data.sets.own import prepare
from aa_flax.data.shrink import Shrunk, shrunk

SIZES = ((40, 61), (90, 30), (31, 32), (20, 100), (64, 64))  # height, width


def jpeg(number, size):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size[::-1], Image.BICUBIC).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a prepared data set with two classes, two splits and images of several sizes."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for number, size in enumerate(SIZES):
                (place / f"{number}.jpg").write_bytes(jpeg(number + len(split + name), size))
    return load("image_folder/mine", data_dir=tmp_path / "tfds", source_dir=tmp_path / "photos").folder


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 61), (32, 49)), ((90, 33), (87, 32)), ((33, 33), (32, 32)), ((2000, 41), (1561, 32))],
)
def test_the_shorter_side(size, expected):
    with Image.open(io.BytesIO(shrunk(jpeg(0, size), 32))) as image:
        assert image.size[::-1] == expected and image.format == "JPEG"


def test_smaller_images_keep_their_bytes():
    for size in ((32, 90), (90, 32), (20, 100), (5, 5)):
        assert shrunk(jpeg(0, size), 32) == jpeg(0, size)
    with pytest.raises(OSError):
        shrunk(jpeg(0, (20, 100))[:-60], 32)


def test_the_picture_stays():
    encoded = jpeg(0, (80, 122))
    with Image.open(io.BytesIO(encoded)) as before, Image.open(io.BytesIO(shrunk(encoded, 40))) as after:
        expected = np.asarray(before.resize(after.size, Image.BOX), int)
        assert np.abs(np.asarray(after, int) - expected).mean() < 3


def test_splits_order_labels_and_names(folder, tmp_path):
    before = load("image_folder/mine", data_dir=tmp_path / "tfds")
    origin = Shrunk(folder, 32, 95)
    assert origin.stored_name == "aa_image_folder_mine_side32"
    prepare(origin, tmp_path / "tfds")
    after = load(origin.stored_name, data_dir=tmp_path / "tfds")
    assert (after.splits, after.class_names) == (before.splits, before.class_names)
    for split in before.splits:
        for one, other in zip(before.split(split), after.split(split), strict=True):
            assert one["label"] == other["label"]
            assert min(other["image"].shape[:2]) == min(32, *one["image"].shape[:2])
            assert np.abs(one["image"].mean((0, 1)) - other["image"].mean((0, 1))).max() < 6
    with pytest.raises(DataError, match="other files than those that were prepared"):
        prepare(Shrunk(folder, 32, 90), tmp_path / "tfds")


def test_damage_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("aa_flax.data.sets.image_folder._encoded", lambda path: b"no image")
    damaged = load("image_folder/bad", data_dir=tmp_path / "tfds", source_dir=tmp_path / "photos").folder
    with pytest.raises(DataError, match=r"-00000-of-00001: example 0 of .*: the image cannot be decoded"):
        prepare(Shrunk(damaged, 32, 95), tmp_path / "tfds")


def test_command(folder, tmp_path):
    def command(*arguments):
        done = forked.run("-m", "aa_flax.data", *arguments, f"--data_dir={tmp_path}/tfds")
        return done.returncode, done.stdout, done.stderr

    made = f"{tmp_path}/tfds/aa_image_folder_mine_side32/1.0.0: train 10, val 10; 2 classes\n"
    assert command("shrink", "image_folder/mine", "--short_side=32") == (0, made, "")
    assert command("check", "aa_image_folder_mine_side32", "--full")[:2] == (
        0,
        "0 findings: 20 of 20 examples looked at, in 2 files\n",
    )
    assert command("shrink", "image_folder/mine", "--short_side=0")[2].startswith("error: short_side is 0")
    (tmp_path / "grey").mkdir()
    assert command("shrink", "nothing_here")[0] == 2
