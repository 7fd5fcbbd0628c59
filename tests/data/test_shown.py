"""Images of every depth, transparency, photometric and sample format look like their twins of 8 bits."""

import io
import struct

import numpy as np
import pytest
from image_files import LONG, SHORT, chunk, grey_tiff, png, tiff
from PIL import Image

from aa_flax.data.photo import PhotoError, load_photo
from aa_flax.data.shown import shown

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # colour types of PNG
LEVELS = np.array([[0, 1, 0.5], [0.25, 0.75, 1]])


def seen(content, tmp_path, channels=1):
    """Return the pixels that a network gets of the bytes of a file."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with Image.open(io.BytesIO(content)) if not content.startswith((b"II", b"MM")) else Image.new("L", (3, 2)) as image:
        size = image.size[::-1]
    found = load_photo(file, size, channels)
    return found[..., 0] if channels == 1 else found


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_any_depth_with_a_transparent_level(bits, tmp_path):
    most = 2**bits - 1
    values = np.floor(LEVELS * most).astype(int)
    twin = np.round(values * 255 / most)
    np.testing.assert_allclose(seen(png(values, bits, GREY), tmp_path), twin, atol=1)
    for level in {0, most, int(values[0, 2])}:
        transparent = chunk(b"tRNS", struct.pack(">H", level))
        found = seen(png(values, bits, GREY, [transparent]), tmp_path)
        np.testing.assert_allclose(found, np.where(values == level, 255, twin), atol=1, err_msg=str(level))


@pytest.mark.parametrize("bits", [8, 16])
def test_coloured_png_of_any_depth_with_a_transparent_colour(bits, tmp_path):
    most = 2**bits - 1
    values = np.array([[[0, 0, 0], [most, 0, 0], [most // 5, most // 3, most // 2]]])
    twin = np.round(values * 255 / most)
    for which in range(3):
        transparent = chunk(b"tRNS", struct.pack(">HHH", *values[0, which].tolist()))
        found = seen(png(values, bits, COLOUR, [transparent]), tmp_path, 3)
        expected = twin.copy()
        expected[0, which] = 255
        np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("color", "channels"), [(GREY_ALPHA, 1), (COLOUR_ALPHA, 3)])
def test_png_with_an_alpha_channel_of_any_depth(bits, color, channels, tmp_path):
    most = 2**bits - 1
    level = np.array([[0, most // 2, 0], [most, most // 3, 0]])[..., None]
    alpha = np.array([[most, most, 0], [0, most // 2, most // 2]])[..., None]
    found = seen(png(np.concatenate([level] * channels + [alpha], -1), bits, color), tmp_path)
    expected = (level * (alpha / most) + most - alpha)[..., 0] * 255 / most
    np.testing.assert_allclose(found, expected, atol=2)


# Pillow reads 12 bits in one order of bytes only; the other is an error.
@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (8, ">"), (12, "<"), (16, "<"), (16, ">"), (32, "<"), (32, ">")])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_tiff_of_any_depth_and_photometric(bits, photometric, order, tmp_path):
    most = 2**bits - 1
    values = np.floor(LEVELS * most).astype(np.uint64)
    twin = values.astype(float) * 255 / most
    for sample_format in (None, 1):
        found = seen(grey_tiff(values, bits, photometric, sample_format, order), tmp_path)
        np.testing.assert_allclose(found, twin if photometric else 255 - twin, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (32, 2), (32, 3)])
def test_numbers_without_a_defined_white_are_refused(bits, sample_format, order, tmp_path):
    with pytest.raises(PhotoError, match=r"file: (negative|floating-point) pixels have no defined range; save it with"):
        seen(grey_tiff([[1, 2, 3], [4, -5, 6]], bits, 1, sample_format, order), tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_numbers_are_grey_from_zero_to_the_largest(bits, order, tmp_path):
    values = np.floor(LEVELS * (2 ** (bits - 1) - 1)).astype(np.int64)
    twin = values * 255 / (2 ** (bits - 1) - 1)
    np.testing.assert_allclose(seen(grey_tiff(values, bits, 1, 2, order), tmp_path), twin, atol=1)


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "tiff_deflate"}])
def test_tiffs_that_pillow_writes(options, tmp_path):
    """Of 1, 8, 16 and 32 bits, in any container; Pillow turns some of them itself."""
    for mode, most in (("1", 1), ("L", 255), ("I;16", 65535), ("I", 2**31 - 1)):
        values = np.floor(LEVELS * most)
        array = {"1": bool, "L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]
        buffer = io.BytesIO()
        Image.fromarray(values.astype(array)).save(buffer, "tiff", tiffinfo={274: 8}, **options)
        found = np.asarray(shown(buffer.getvalue()).picture.convert("L"))
        np.testing.assert_allclose(found, np.rot90(values * 255 / most), atol=1, err_msg=mode)


def test_grey_of_sixteen_bits_in_other_formats(tmp_path):
    values = np.floor(LEVELS * 65535).astype(">u2")
    found = seen(b"P5 3 2 65535\n" + values.tobytes(), tmp_path)
    np.testing.assert_allclose(found, LEVELS * 255, atol=1)


def test_lab_is_seen_in_colour(tmp_path):
    lab = np.zeros((2, 3, 3), np.uint8)
    lab[:, 0] = 255, 0, 0  # white
    lab[:, 1] = 138, 81, 70  # red: lightness 54, a 81, b 70
    buffer = io.BytesIO()
    Image.frombytes("LAB", (3, 2), lab.tobytes()).save(buffer, "tiff")
    found = seen(buffer.getvalue(), tmp_path, 3)
    np.testing.assert_allclose(found[0], [[255, 255, 255], [255, 0, 0], [0, 0, 0]], atol=12)


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("png", ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("tiff", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")),
        ("gif", ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("bmp", ("1", "L", "P", "RGB", "RGBA")),
        ("webp", ("L", "LA", "P", "RGB", "RGBA")),
        ("jpeg", ("L", "RGB", "CMYK", "YCbCr")),
    ],
)
def test_white_is_white_in_every_mode_of_every_format(kind, modes, tmp_path):
    for mode in modes:
        image = Image.new("RGB", (3, 2), "white").convert("RGBA" if "A" in mode else "RGB").convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind)
        assert seen(buffer.getvalue(), tmp_path).min() >= 253, mode


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_in_planes_is_right_or_refused(bits, order):
    """Pillow reads the bytes of planes of 16 bits as samples."""
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    planes = (rgb * (257 if bits == 16 else 1)).transpose(2, 0, 1).astype(f"{order}u{bits // 8}")
    size, starts = planes[0].nbytes, [8 + i * planes[0].nbytes for i in range(3)]

    def three(values, code):
        return struct.pack(f"{order}3{code}", *values)

    entries = [
        *[(256, SHORT, 1, 6), (257, SHORT, 1, 4), (258, SHORT, 3, three([bits] * 3, "H")), (259, SHORT, 1, 1)],
        *[(262, SHORT, 1, 2), (273, LONG, 3, three(starts, "I")), (277, SHORT, 1, 3), (278, SHORT, 1, 4)],
        *[(279, LONG, 3, three([size] * 3, "I")), (284, SHORT, 1, 2)],
    ]
    content = tiff(entries, planes.tobytes(), order)
    if bits == 8:
        np.testing.assert_array_equal(np.asarray(shown(content).picture), rgb)
    else:
        with pytest.raises(ValueError, match="more than 8 bits in planes is not read"):
            shown(content)
