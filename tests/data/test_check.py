"""Tests of the check of prepared folders, each damaged in one way."""

import io
import json
import re
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from image_files import SHORT, chunk, png, tiff, with_segment
from PIL import Image

from aa_flax.data import load
from aa_flax.data.check import check
from aa_flax.data.images import encode_png
from aa_flax.data.sets.own import open_origin, prepare

NAME = "aa_fashion_mnist-{}.array_record-00000-of-00001"


@pytest.fixture
def folder(fashion, tmp_path):
    return load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder).folder


def rewrite(path, records, options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def records_of(path):
    reader = ArrayRecordReader(str(path))
    return reader.read_all()


def test_nothing_is_wrong(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for sample, read in ((None, 34), (1000, 34), (5, 10)):
        report = check(folder, sample)
        assert [line for line in report.findings if "no example of class" not in line] == []
        assert str(report).endswith(f"{read} of 34 examples looked at, in 2 files")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_missing_file_and_what_is_left_of_the_split(folder):
    path = folder / NAME.format("train")
    path.unlink()
    report = check(folder, 3)
    assert report.findings == [f"{path}: missing, with 23 examples"]
    assert str(report) == "1 finding: 3 of 34 examples looked at, in 2 files"


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_file(folder, kept):
    path = folder / NAME.format("test")
    path.write_bytes(path.read_bytes()[:kept])
    (finding,) = check(folder, 3).findings
    assert finding.startswith(f"{path}: cannot be opened, truncated or damaged (") and "\n" not in finding


def test_records_that_are_too_few(folder):
    path = folder / NAME.format("test")
    rewrite(path, records_of(path)[:-2])
    assert check(folder, 3).findings == [f"{path}: 9 records, expected 11"]


def test_group_size(folder):
    path = folder / NAME.format("test")
    rewrite(path, records_of(path), "group_size:4")
    (finding,) = check(folder, 3).findings
    assert finding.startswith(f"{path}: written with group_size:4, expected group_size:1")


def test_damaged_records(folder, fashion):
    path = folder / NAME.format("train")
    content = bytearray(path.read_bytes())
    for row in (3, 17):
        png = encode_png(fashion.train.images[row][..., None])
        content[content.index(png) + len(png) // 2] ^= 0x55
    path.write_bytes(content)
    findings = [line for line in check(folder, None).findings if "no example of class" not in line]
    assert [line.partition(": damaged record")[0] for line in findings] == [
        f"{path}: example {row} of aa_fashion_mnist[train]" for row in (3, 17)
    ]


def test_images_and_labels(tmp_path):
    origin = open_origin("fashion_mnist_subset", "")
    good, small = encode_png(np.zeros((28, 28, 1), np.uint8)), encode_png(np.zeros((27, 28, 1), np.uint8))
    examples = [(good, label) for label in range(9)] + [(b"no image", 9), (small, 9), (good, -1)]
    origin.splits = lambda: {"train": iter(examples)}
    folder = prepare(origin, tmp_path)
    place = re.escape(f"{folder}/aa_fashion_mnist_subset-train.array_record-00000-of-00001")
    expected = [
        f"{place}: example 9 of .*: the image cannot be decoded",
        rf"{place}: example 10 of .*: an image of shape \(27, 28, 1\), expected \(28, 28, 1\)",
        f"{place}: example 11 of .*: label -1, expected 0 to 9",
        f"{re.escape(str(folder))}: split 'train' has no example of class 'Ankle boot'",
    ]
    findings = check(folder, None).findings
    assert len(findings) == len(expected)
    for line, pattern in zip(findings, expected, strict=True):
        assert re.match(pattern, line), line


def test_what_prepare_let_through(tmp_path, rng, monkeypatch):
    """Images that Pillow decodes although they are damaged, and those that an older version stored unturned."""
    pytest.importorskip("simplejpeg")
    names, buffer = ("ant", "bee"), io.BytesIO()
    smooth = Image.fromarray(np.cumsum(np.cumsum(rng.normal(0, 1, (64, 64)), 0), 1).clip(-99, 99).astype(np.uint8) + 99)
    smooth.save(buffer, "jpeg", quality=95)
    jpeg, grey = buffer.getvalue(), np.arange(16).reshape(4, 4)
    garbled = jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 200 :]
    whole = png(grey, 8, 0)
    start = whole.index(b"IDAT") - 4
    size = int.from_bytes(whole[start : start + 4])
    torn = whole[:start] + chunk(b"IDAT", whole[start + 8 : start + 8 + size], checksum=7) + whole[start + size + 12 :]
    turned = with_segment(jpeg, 0xE1, b"Exif\0\0" + tiff([(274, SHORT, 1, 6)]))
    files = {
        "1.jpg": (jpeg, ""),
        "2.png": (whole, ""),
        "3.jpg": (garbled, r"decoded, but damaged \((Corrupt JPEG data|Premature end).*\)"),
        "4.png": (torn, r"decoded, but damaged \(the checksum of IDAT is wrong\)"),
        "5.jpg": (turned, "shown otherwise than stored"),
        "6.png": (png(257 * grey, 16, 0), "shown otherwise than stored"),
        "7.png": (png(grey, 8, 0, [chunk(b"tRNS", b"\0\3")]), "shown otherwise than stored"),
    }
    for name in names:
        (tmp_path / "it" / name).mkdir(parents=True)
    for name, (content, _) in files.items():
        (tmp_path / "it" / names[int(name[0]) % 2] / name).write_bytes(content)
    monkeypatch.setattr("aa_flax.data.sets.image_folder._encoded", Path.read_bytes)
    folder = load("image_folder/it", data_dir=tmp_path, source_dir=tmp_path / "it").folder
    expected = [words for _, words in files.values() if words]
    findings = check(folder, None).findings
    assert len(findings) == len(expected)
    for words in expected:
        assert any(re.search(rf"example \d of aa_image_folder_it\[train\]: {words}", line) for line in findings), words


def test_other_files(folder):
    stray = folder / NAME.format("train").replace("00001", "00002")
    shutil.copy(folder / NAME.format("train"), stray)
    assert check(folder, 3).findings == [f"{stray}: belongs to no split of aa_fashion_mnist"]
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    (finding,) = check(folder, 3).findings
    assert "prepared as tfrecord" in finding and "must be array_record" in finding
    info.write_text("{")
    assert "description of the data set cannot be read" in check(folder).findings[0]
    info.unlink()
    assert check(folder).findings == [f"{folder}: no dataset_info.json, so nothing was prepared here to its end"]


def test_a_split_without_examples(tmp_path):
    origin = open_origin("fashion_mnist_subset", "")
    good = encode_png(np.zeros((28, 28, 1), np.uint8))
    origin.splits = lambda: {"train": iter([(good, 0)])}
    folder = prepare(origin, tmp_path)
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"].append({**content["splits"][0], "name": "validation", "shardLengths": ["0"], "numBytes": "0"})
    info.write_text(json.dumps(content))
    rewrite(folder / "aa_fashion_mnist_subset-validation.array_record-00000-of-00001", [])
    assert f"{folder}: split 'validation' has no examples" in check(folder, None).findings


def command(*arguments):
    done = forked.run("-m", "aa_flax.data", *arguments)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_commands(fashion, tmp_path):
    where = f"--data_dir={tmp_path}/tfds"
    assert command("check", "fashion_mnist", where) == (
        2,
        [],
        [
            f"error: fashion_mnist is not prepared in {tmp_path}/tfds; either name the folder with the official files "
            "once as source_dir, or prepare it from the TFDS catalogue: "
            f"python -m aa_flax.data prepare fashion_mnist --data_dir={tmp_path}/tfds"
        ],
    )
    code, out, _ = command("prepare", "fashion_mnist", where, f"--source_dir={fashion.folder}")
    folder = tmp_path / "tfds" / "aa_fashion_mnist" / "1.0.0"
    assert (code, out) == (0, [f"{folder}: train 23, test 11; 10 classes"])
    (folder / NAME.format("train")).unlink()
    for name in ("fashion_mnist", folder):
        code, out, _ = command("check", name, where)
        assert (code, out[0]) == (1, f"{folder / NAME.format('train')}: missing, with 23 examples")
    assert command("chek", "x")[2] == ["error: expected prepare, check, draw, shrink, and a name; got chek x"]
    assert command("check", "x", "--ful")[0] == 2
