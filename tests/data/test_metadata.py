"""Metadata never decide whether pixels can be read: they turn an image, and nothing else of them counts."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from image_files import ASCII, LONG, RATIONAL, SHORT, SIZES, chunk, grey_tiff, png, tiff, with_segment
from PIL import Image, features

from aa_flax.data.damage import damage_in
from aa_flax.data.encoded import exif_in, first_jpeg, orientation_in, samples, without_metadata
from aa_flax.data.images import decode_image, decode_part
from aa_flax.data.photo import PhotoError, load_photo
from aa_flax.data.placement import resized
from aa_flax.data.shown import shown

STORED = np.repeat(np.repeat([[255, 0], [128, 64], [0, 255]], 8, 0), 8, 1).astype(np.uint8)  # 24 × 16, not symmetric
TURNS = {  # EXIF 2.32, table of the tag Orientation: where the stored row 0 and column 0 are to be seen
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: STORED[::-1].T,
    7: STORED[::-1, ::-1].T,
    8: STORED.T[::-1],
}
KINDS = ("jpeg", "png", "webp", "tiff")


def written(kind, exif):
    """Return an image file with EXIF data, which are given as a directory of entries or as bytes."""
    if kind == "tiff":
        if isinstance(exif, bytes):
            pytest.skip("the data of a TIFF are the file")
        return grey_tiff(STORED, 8, more=exif)
    data = exif if isinstance(exif, bytes) else tiff(exif)
    if kind == "png":
        return png(STORED, 8, 0, [chunk(b"eXIf", data)])
    buffer = io.BytesIO()
    image = Image.fromarray(STORED)
    if kind == "webp":
        image.save(buffer, "webp", lossless=True, exif=b"Exif\0\0" + data)
        return buffer.getvalue()
    image.save(buffer, "jpeg", quality=98)
    return with_segment(buffer.getvalue(), 0xE1, b"Exif\0\0" + data)


def seen(content):
    return np.asarray(shown(content).picture.convert("L")).astype(int)


def is_close(found, expected):
    return found.shape == expected.shape and np.abs(found - expected).max() < 20


@pytest.mark.parametrize("kind", KINDS)
def test_all_orientations(kind):
    for orientation, expected in TURNS.items():
        assert is_close(seen(written(kind, [(274, SHORT, 1, orientation)])), expected), orientation


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_of_another_type(order):
    """Some cameras and programs write it as another type of number, or as a digit."""
    number = lambda form: struct.pack(f"{order}{form}", 6)  # noqa: E731
    entries = [(1, number("B")), (3, number("H")), (4, number("I")), (6, number("b")), (8, number("h"))]
    entries += [(9, number("i")), (11, number("f")), (12, number("d")), (ASCII, b"6\0")]
    entries += [(RATIONAL, struct.pack(f"{order}II", 12, 2)), (10, struct.pack(f"{order}ii", -6, -1))]
    for kind, value in entries:
        count = 2 if kind == ASCII else 1
        found = seen(written("jpeg", tiff([(274, kind, count, value)], order=order)))
        assert is_close(found, TURNS[6]), kind


@pytest.mark.parametrize("kind", KINDS)
def test_an_orientation_that_means_nothing_turns_nothing(kind):
    odd = [
        (SHORT, 1, 0),
        (SHORT, 1, 9),
        (SHORT, 1, 65535),
        (SHORT, 0, 6),
        (SHORT, 2, b"\6\0\6\0"),
        (ASCII, 4, b"six\0"),
    ]
    odd += [(RATIONAL, 1, bytes(8)), (11, 1, struct.pack("<f", float("nan"))), (12, 1, struct.pack("<d", 1e300))]
    odd += [(99, 1, b"\6\0"), (SHORT, 2**32 - 1, b"\6\0"), (RATIONAL, 1, LONG_WAY)]
    for type_, count, value in odd:
        assert is_close(seen(written(kind, [(274, type_, count, value)])), STORED), (type_, count, value)


LONG_WAY = b"\xff\xff\xff\x7f"  # an offset far beyond the file


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_tag_of_any_type_and_value(kind):
    """The image is turned, whatever stands beside the orientation."""
    known = (0x010F, 0x0112 + 6, 0x011A, 0x0128, 0x0131, 0x0132, 0x02BC, 0x8769, 0x8825, 0xA005, 0x927C, 0x9286, 0xC4A5)
    tags = (*known, 0x014A, 0xFFFF) if kind in ("jpeg", "tiff") else (0x011A, 0x8769, 0xFFFF)
    values = ((1, b"\xff" * 4), (2**31, LONG_WAY), (1, b"\1\0\0\0"), (0, b"\0" * 4), (3, b"\xff" * 24))
    for place, (tag, type_) in enumerate(itertools.product(tags, SIZES)):
        count, value = values[place % len(values)]
        entries = [(274, SHORT, 1, 6), (tag, type_, count, value)]
        assert is_close(seen(written(kind, entries)), TURNS[6]), (hex(tag), type_, count, value)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_damaged_exif_data(kind):
    whole = tiff([(274, SHORT, 1, 6), (0x8769, LONG, 1, 8)])
    for data in (b"", b"II", b"not EXIF at all", b"MM\0*\xff\xff\xff\xff", *(whole[:n] for n in range(4, 22, 3))):
        assert is_close(seen(written(kind, data)), STORED), data
    endless = tiff([(0x8769, LONG, 1, 8), (274, SHORT, 1, 6)])  # a directory that holds itself
    assert is_close(seen(written(kind, endless)), TURNS[6])


def test_other_metadata_of_a_jpeg():
    upright = written("jpeg", [(274, SHORT, 1, 6)])
    photoshop = b"Photoshop 3.0\x008BIM\x03\xed"
    for marker, data in (
        (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        (0xE2, b"MPF\0" + tiff([(0xB001, 7, 4, b"\xff" * 4), (0xB002, 7, 32, b"\xff" * 32)])),
        (0xE2, b"ICC_PROFILE\0\7\1"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xED, photoshop),
        (0xED, photoshop + b"\xff" * 9),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta \xff\0"),
        (0xE1, b"Exif\0\0"),
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff\xfe"),
    ):
        assert is_close(seen(with_segment(upright, marker, data)), TURNS[6]), (marker, data)


def test_other_metadata_of_a_png():
    bomb = zlib.compress(bytes(1 << 23))  # more than Pillow unpacks
    orientation = chunk(b"eXIf", tiff([(274, SHORT, 1, 6)]))
    for odd in (
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"icc\0\0not compressed"),
        chunk(b"iCCP", b"icc\0\0" + bomb),
        chunk(b"tEXt", b"\xff\xfe"),
        chunk(b"tEXt", b"Comment\0x", checksum=0),
        chunk(b"gAMA", b"\1"),
        chunk(b"pHYs", b"\1"),
        chunk(b"cHRM", b""),
        chunk(b"acTL", b"\xff"),
        chunk(b"vpAg", b"\0"),
    ):
        for place in ([odd, orientation], [orientation, odd]):
            assert is_close(seen(png(STORED, 8, 0, place)), TURNS[6]), odd[4:20]
        assert is_close(seen(png(STORED, 8, 0, [orientation], [odd])), TURNS[6]), odd[4:20]


def test_training_reads_what_is_stored_with_any_metadata():
    """Data sets that others have prepared hold files as they came."""
    jpeg = written("jpeg", b"")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 23)))
    for odd in (
        png(STORED, 8, 0, [bomb]),
        png(STORED, 8, 0, [chunk(b"tEXt", b"Comment\0x", checksum=0)]),
        with_segment(jpeg, 0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        with_segment(jpeg, 0xE0, b"JFIF"),
        with_segment(jpeg, 0xE2, b"MPF\0" + tiff([(0xB001, 7, 4, b"\xff" * 4), (0xB002, 7, 32, b"\xff" * 32)])),
    ):
        assert is_close(decode_image(odd, 1)[..., 0].astype(int), STORED)
        part, placement = decode_part(odd, 1, resized(STORED.shape))
        assert placement.photo == STORED.shape and is_close(part[..., 0].astype(int), STORED)


def test_orientations_that_are_written_elsewhere():
    digits = (b"Exif\0\0" + tiff([(274, SHORT, 1, 8)])).hex()
    raw = chunk(b"tEXt", f"Raw profile type exif\0\nexif\n{len(digits) // 2:8}\n{digits}\n".encode())
    assert is_close(seen(png(STORED, 8, 0, [raw])), TURNS[8])
    broken = chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   9\nno digits\n")
    assert is_close(seen(png(STORED, 8, 0, [broken])), STORED)
    plain = written("jpeg", b"")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    assert is_close(seen(with_segment(plain, 0xE1, xmp)), TURNS[3])
    for orientation in (1, 8):  # EXIF data count first
        both = with_segment(written("jpeg", [(274, SHORT, 1, orientation)]), 0xE1, xmp)
        assert is_close(seen(both), TURNS[orientation])
    with_neither = with_segment(written("jpeg", [(274, SHORT, 1, 0)]), 0xE1, xmp)
    assert is_close(seen(with_neither), TURNS[3])


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_orientations_of_avif():
    """Its file says itself how it is turned, and Pillow gives that as EXIF data."""
    for orientation, expected in TURNS.items():
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[274] = orientation
        Image.fromarray(STORED).save(buffer, "avif", quality=100, exif=exif)
        assert is_close(seen(buffer.getvalue()), expected), orientation


def test_the_parts_of_any_bytes_are_found_without_an_error(rng):
    for kind in KINDS:
        whole = written(kind, [(274, SHORT, 1, 6), (0x8769, LONG, 1, 8)])
        for _ in range(150):
            content = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
            for place in rng.integers(len(content), size=3):
                content[place] = rng.integers(256)
            content = bytes(content)
            assert len(without_metadata(first_jpeg(content))) <= len(content) + 400
            assert orientation_in(exif_in(content)) in range(9)
            samples(content)
            assert "\n" not in damage_in(content)


@pytest.mark.parametrize(
    "raised", [KeyError("x"), struct.error("y"), AssertionError(), RecursionError(), MemoryError()]
)
def test_whatever_the_decoder_raises_is_one_line(raised, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise raised

    file = tmp_path / "photo.jpg"
    file.write_bytes(written("jpeg", []))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(PhotoError, match=rf"photo\.jpg: cannot be decoded: {type(raised).__name__}") as error:
        load_photo(file, (4, 4), 1)
    assert "\n" not in str(error.value)
