"""JPEGs with more behind them, or under another name, are stored as the JPEG that they begin with."""

import io
import struct

import numpy as np
import pytest
from image_files import SHORT, tiff, with_segment
from PIL import Image

from aa_flax.data.encoded import first_jpeg
from aa_flax.data.fast_jpeg import decode_part_fast
from aa_flax.data.images import decode_image
from aa_flax.data.placement import resized
from aa_flax.data.sets import image_folder


def jpeg(rng, turned=False, **options):
    smooth = np.cumsum(rng.normal(0, 3, (48, 64, 3)), 1) + 128
    buffer = io.BytesIO()
    Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=90, **options)
    content = buffer.getvalue()
    return with_segment(content, 0xE1, b"Exif\0\0" + tiff([(274, SHORT, 1, 6)])) if turned else content


def mpo(first, second):
    """Return an MPO of two JPEGs: the first has an index of both (CIPA DC-007, 5.2)."""
    entry = tiff([(0xB000, 7, 4, b"0100"), (0xB001, 4, 1, 2), (0xB002, 7, 32, bytes(32))])
    size = len(with_segment(first, 0xE2, b"MPF\0" + entry))
    images = struct.pack("<IIIHH", 0x30000, size, 0, 0, 0) + struct.pack("<IIIHH", 0, len(second), size - 10, 0, 0)
    return with_segment(first, 0xE2, b"MPF\0" + entry.replace(bytes(32), images)) + second


def appended(kind, plain, rng):
    """Return what a phone or program makes of a plain JPEG."""
    return {
        "mpo": lambda: mpo(plain, jpeg(rng)),
        "ultra hdr": lambda: mpo(with_segment(plain, 0xE1, b'x\0 hdrgm:Version="1.0"'), jpeg(rng)),
        "motion photo": lambda: plain + b"\0\0\0\x18ftypmp42" + rng.bytes(5000),
        "samsung": lambda: plain + b"\0\0\1\x0aImage_UTC_Data1" + b"SEFT",
        "zeros": lambda: plain + bytes(100),
        "a line end": lambda: plain + b"\n",
        "a whole png": lambda: plain + b"\x89PNG\r\n\x1a\n",
        "nothing": lambda: plain,
    }[kind]()


KINDS = ("mpo", "ultra hdr", "motion photo", "samsung", "zeros", "a line end", "a whole png", "nothing")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}])
def test_the_first_image_alone_is_stored(options, rng, tmp_path):
    plain = jpeg(rng, **options)
    for kind in KINDS:
        file = tmp_path / f"{kind}.jpg"
        file.write_bytes(appended(kind, plain, rng))
        stored = image_folder._encoded(file)
        assert len(stored) < len(plain) + 60, kind
        np.testing.assert_array_equal(decode_image(stored, 3), decode_image(plain, 3), err_msg=kind)
        with Image.open(io.BytesIO(stored)) as image:
            assert image.format == "JPEG"
    assert image_folder._encoded(tmp_path / "nothing.jpg") == plain


def test_what_is_stored_is_decoded_fast(rng, tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cykooz_resizer")
    plain = jpeg(rng)
    monkeypatch.setattr("aa_flax.data.fast_jpeg.decode_part", lambda *a, **k: pytest.fail("decoded slowly"))
    for kind in KINDS:
        file = tmp_path / "x.jpg"
        file.write_bytes(appended(kind, plain, rng))
        decode_part_fast(image_folder._encoded(file), 3, resized((16, 16)))


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.mpo", "x.png", "x.tif", "x.jfif"])
def test_turned_jpegs_stay_jpegs_under_any_name(name, rng, tmp_path):
    for kind in ("mpo", "motion photo", "nothing"):
        content = appended(kind, jpeg(rng, turned=True), rng)
        (tmp_path / name).write_bytes(content)
        stored = image_folder._encoded(tmp_path / name)
        with Image.open(io.BytesIO(stored)) as image:
            assert (image.format, image.size) == ("JPEG", (48, 64))
        assert len(stored) < 2 * len(content)


def test_bytes_that_are_no_whole_jpeg_are_left_alone(rng):
    plain = jpeg(rng)
    for content in (b"", b"\xff\xd8\xff", plain[:-2], plain[: len(plain) // 2], plain[:20], b"\x89PNG" + plain):
        assert first_jpeg(content) == content
    filled = plain[:2] + b"\xff\xff" + plain[2:]  # fill bytes before a marker
    np.testing.assert_array_equal(decode_image(first_jpeg(filled + b"more"), 3), decode_image(plain, 3))
