import io
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from aa_flax.data import ClassLabel, DataError, TolerantSource, load
from aa_flax.data.array_source import ArraySource
from aa_flax.data.images import decode_image, decode_part, encode_png, resize
from aa_flax.data.placement import resized

RECORDS = "aa_fashion_mnist-{}.array_record-00000-of-00001"


@pytest.fixture
def prepared(fashion, tmp_path):
    return load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)


def test_random_access(prepared, fashion):
    source = prepared.split("train")
    assert (len(source), source.target_shapes, source.image_shape) == (23, ClassLabel.shapes, (28, 28, 1))
    for index in (22, 0, 7):
        example = source[index]
        assert example["image"].dtype == np.uint8
        assert (example["label"].dtype, example["label"].shape, type(example["index"])) == (np.int32, (), int)
        np.testing.assert_array_equal(example["image"][..., 0], fashion.train.images[index])
    batch = source.__getitems__([5, 1, 5])
    assert [example["index"] for example in batch] == [5, 1, 5]
    np.testing.assert_array_equal(batch[1]["image"][..., 0], fashion.train.images[1])


@pytest.mark.parametrize("index", [-1, 23])
def test_index_out_of_range(prepared, index):
    for source in (prepared.split("train"), prepared.split("train").cached()):
        with pytest.raises(IndexError, match=f"index {index}, expected 0 to 22"):
            source[index]
        with pytest.raises(IndexError, match=f"index {index}, expected 0 to 22"):
            source.__getitems__([0, index])


@pytest.mark.parametrize(("split", "rows"), [("train[5:9]", range(5, 9)), ("train[50%:]", range(12, 23))])
def test_parts_of_a_split_count_from_zero(prepared, fashion, split, rows):
    source = prepared.split(split)
    assert len(source) == len(rows)
    for index, row in enumerate(rows):
        assert source[index]["index"] == index
        np.testing.assert_array_equal(source[index]["image"][..., 0], fashion.train.images[row])


def test_sum_of_splits(prepared, fashion):
    source = prepared.split("train+test")
    assert len(source) == 34
    np.testing.assert_array_equal(source[33]["image"][..., 0], fashion.test.images[10])


def test_all_targets_are_read_without_decoding(prepared, fashion, monkeypatch):
    labels = prepared.split("train+test").cached().all_targets()["label"]
    np.testing.assert_array_equal(labels, [*fashion.train.labels, *fashion.test.labels])
    source = prepared.split("train[3:20]")
    monkeypatch.setattr("aa_flax.data.images.decode_image", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("aa_flax.data.record_source.decode_image", lambda *_: pytest.fail("decoded"))
    for each in (source, TolerantSource(source, 1)):
        found = each.all_targets()
        assert found.keys() == {"label"} and found["label"].dtype == np.int32
        np.testing.assert_array_equal(found["label"], fashion.train.labels[3:20])


def test_cached_is_the_same(prepared):
    source = prepared.split("train")
    cached = source.cached()
    assert len(cached) == len(source)
    for one, other in zip(source, cached, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert (one["label"], one["index"]) == (other["label"], other["index"])
    assert cached.cached() is cached
    with pytest.raises(ValueError, match="read-only"):
        cached[0]["image"][0, 0, 0] = 1


def test_images_of_several_sizes_are_cached(rng, monkeypatch):
    images = [rng.integers(0, 256, (5 + i % 3, 7, 3), np.uint8) for i in range(300)]
    source = ArraySource("mine", images, {"label": np.arange(300)})
    assert source.image_shape == (None, 7, 3)
    cached = ArraySource.of(source)
    assert cached.image_shape == (None, 7, 3) and not cached[4]["image"].flags.writeable
    for i in (0, 1, 257, 299):
        np.testing.assert_array_equal(cached[i]["image"], images[i])
        assert cached[i]["label"] == i
    monkeypatch.setattr("aa_flax.data.array_source.available_memory", lambda: 10_000)
    with pytest.raises(DataError, match="cached, its images take 0.0 GB"):
        ArraySource.of(source)


def test_arrays_are_checked_and_left_alone(rng):
    images = rng.integers(0, 256, (3, 5, 7, 1), np.uint8)
    boxes = rng.normal(size=(3, 2, 4)).astype(np.float32)
    source = ArraySource("mine", images, {"label": np.array([0, 1, 2]), "boxes": boxes})
    assert source.target_shapes["boxes"] == jax.ShapeDtypeStruct((2, 4), np.float32)
    np.testing.assert_array_equal(source[1]["boxes"], boxes[1])
    images[0] = 0
    boxes[0] = 0
    assert not source[0]["image"].flags.writeable and not source[0]["boxes"].flags.writeable
    with pytest.raises(DataError, match="with 2 of 'label', expected uint8"):
        ArraySource("mine", images, {"label": np.array([0, 1])})


def damage_record(prepared, split, pattern):
    """Flip a byte in the middle of the first record whose stored bytes contain `pattern`."""
    path = prepared.folder / RECORDS.format(split)
    content = bytearray(path.read_bytes())
    position = content.index(pattern) + len(pattern) // 2
    content[position] ^= 0x55
    path.write_bytes(content)
    return path


def test_flipped_bytes_name_file_and_index(prepared, fashion):
    for row in (17, 3):
        # PNG is stored as it is, so its bytes can be found in the file.
        path = damage_record(prepared, "train", encode_png(fashion.train.images[row][..., None]))
    source = prepared.split("train")
    with pytest.raises(DataError, match=re.escape(f"{path}: example 17 of aa_fashion_mnist[train]: damaged record")):
        source[17]
    # A batched read reports the first damaged example in the requested order.
    with pytest.raises(DataError, match=re.escape(f"{path}: example 3 of")):
        source.__getitems__([0, 3, 17])
    with pytest.raises(DataError, match=re.escape(f"{path}: example 3 of")):
        source.cached()
    # The index is that of the requested split, and the rest of the file stays readable.
    with pytest.raises(DataError, match=re.escape(f"{path}: example 2 of aa_fashion_mnist[train[15:]]")):
        prepared.split("train[15:]")[2]
    np.testing.assert_array_equal(source[18]["image"][..., 0], fashion.train.images[18])


@pytest.mark.parametrize(("split", "row", "index"), [("train", 22, 22), ("test", 0, 23)])
def test_the_file_named_is_the_right_one_of_several(prepared, fashion, split, row, index):
    path = damage_record(prepared, split, encode_png(getattr(fashion, split).images[row][..., None]))
    with pytest.raises(DataError, match=re.escape(f"{path}: example {index} of aa_fashion_mnist[train+test]")):
        prepared.split("train+test")[index]


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_truncated_file(prepared, kept):
    path = prepared.folder / RECORDS.format("test")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        prepared.split("test")[0]
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=re.escape(str(path))):
        prepared.split("test").cached()


def test_missing_file(prepared):
    path = prepared.folder / RECORDS.format("test")
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: no such file")):
        prepared.split("test")
    assert len(prepared.split("train").cached()) == 23


def with_example(tmp_path, monkeypatch, image, label):
    """Return the source of a prepared data set whose record 1 is intact and has this image file and label."""
    from aa_flax.data.prepared import open_prepared
    from aa_flax.data.record_source import RecordSource
    from aa_flax.data.sets import fashion_mnist
    from aa_flax.data.sets.own import open_origin, prepare

    origin = open_origin("fashion_mnist_subset", "")
    good = encode_png(np.zeros((28, 28, 1), np.uint8))
    monkeypatch.setattr(fashion_mnist.FashionMnist, "splits", lambda self: {"train": iter([(good, 0), (image, label)])})
    monkeypatch.setattr(fashion_mnist.FashionMnist, "encoding", "jpeg" if image[:1] == b"\xff" else "png")
    return RecordSource(open_prepared(prepare(origin, Path(tmp_path))), "train")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (b"no image", 0, "the image cannot be decoded"),
        (encode_png(np.arange(784, dtype=np.uint8).reshape(28, 28, 1))[:-40], 0, "the image cannot be decoded"),
        (encode_png(np.zeros((27, 28, 1), np.uint8)), 0, r"an image of shape \(27, 28, 1\), expected \(28, 28, 1\)"),
        (encode_png(np.zeros((28, 28, 1), np.uint8)), -1, "label -1, expected 0 to 9"),
    ],
)
def test_faulty_examples_name_file_and_index(tmp_path, monkeypatch, image, label, message):
    source = with_example(tmp_path, monkeypatch, image, label)
    assert source[0]["label"] == 0
    for read in (
        lambda: source[1],
        lambda: source.part(1, resized((5, 5))),
        lambda: source.__getitems__([0, 1]),
        source.cached,
    ):
        with pytest.raises(DataError, match=rf"array_record-00000-of-00001: example 1 of .*: {message}"):
            read()


@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp"])
def test_decodes(encoding):
    # Smooth, so that the lossy formats stay close.
    pixels = np.stack([np.add.outer(np.arange(11), np.arange(13)) * factor for factor in (2, 3, 4)], -1).astype(
        np.uint8
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding, quality=95)
    decoded = decode_image(buffer.getvalue(), 3)
    assert decoded.dtype == np.uint8
    # PNG is exact; the others lose a few levels, mostly in colour.
    assert np.abs(decoded.astype(int) - pixels).max() <= (0 if encoding == "png" else 12)


@pytest.mark.parametrize("window", [None, lambda height, width: (1.5, 2.0, width - 3.0, height - 1.25)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_a_part_is_that_of_the_whole_image(rng, window, channels, encoding):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (23, 31, 3), np.uint8)).save(buffer, encoding)
    whole = decode_image(buffer.getvalue(), channels)
    part, placement = decode_part(buffer.getvalue(), channels, resized((11, 13), window))
    assert placement.photo == (23, 31) and placement.size == placement.canvas == (11, 13)
    np.testing.assert_array_equal(part, resize(whole, (11, 13), window and window(23, 31)))
    np.testing.assert_array_equal(decode_part(buffer.getvalue(), channels, resized((23, 31)))[0], whole)


@pytest.mark.parametrize("cached", [False, True])
def test_parts_of_a_source(prepared, cached):
    source = prepared.split("train").cached() if cached else prepared.split("train")
    example, window = source[3], lambda height, width: (2.0, 3.0, width - 4.0, float(height))
    part = source.part(3, resized((9, 8), window))
    np.testing.assert_array_equal(part["image"], resize(example["image"], (9, 8), (2.0, 3.0, 24.0, 28.0)))
    assert (part["label"], part["index"]) == (example["label"], 3)
    np.testing.assert_array_equal(source.part(3, resized((28, 28)))["image"], example["image"])
    with pytest.raises(IndexError, match="index 23"):
        source.part(23, resized((9, 8)))


def test_channels_are_forced(rng):
    grey, colour = rng.integers(0, 256, (5, 7, 1), np.uint8), rng.integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(grey), 3), np.repeat(grey, 3, -1))
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601, rounded by at most one level
    assert np.abs(decode_image(encode_png(colour), 1)[..., 0] - colour @ weights).max() <= 1


def test_a_prepared_folder_can_be_moved(prepared, tmp_path):
    shutil.move(tmp_path / "tfds", tmp_path / "elsewhere")
    assert len(load("fashion_mnist", data_dir=tmp_path / "elsewhere").split("train").cached()) == 23
