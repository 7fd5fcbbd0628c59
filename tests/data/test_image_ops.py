"""Tests of each operation against NumPy in float64, to the one grey level that Pillow's rounding may differ by."""

import numpy as np
import pytest

from aa_flax.data.augment import image_ops

FILL = {1: (40,), 3: (40, 50, 60)}


@pytest.fixture(params=[1, 3])
def image(request, rng):
    # Pixels do not span the whole range, so that auto-contrast changes them.
    return rng.integers(30, 201, (13, 17, request.param), np.uint8)


def luma(image):
    return image.astype(np.float64) @ (0.299, 0.587, 0.114) if image.shape[-1] == 3 else image[..., 0].astype(float)


def blended(other, image, factor):
    return np.clip((1 - factor) * other + factor * image, 0, 255)


def agree(result, expected, image, levels=1.0):
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    np.testing.assert_allclose(result.astype(float), expected, atol=levels)


def test_grayscale(image):
    agree(image_ops.grayscale(image), np.repeat(luma(image)[..., None], image.shape[-1], -1), image)
    assert image.shape[-1] == 3 or (image_ops.grayscale(image) == image).all()


def test_auto_contrast(image):
    low, high = (bound(image.astype(float), axis=(0, 1)) for bound in (np.min, np.max))
    agree(image_ops.auto_contrast(image), (image - low) * 255 / (high - low), image)
    flat = np.full_like(image, 7)
    np.testing.assert_array_equal(image_ops.auto_contrast(flat), flat)


def test_equalize(image):
    """Value v becomes 255 times the fraction of pixels below v, within the grey levels that integer steps allow."""
    expected = np.empty(image.shape)
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        histogram = np.bincount(values.ravel(), minlength=256)
        step = (values.size - histogram[values.max()]) // 255
        below = np.concatenate([[0], np.cumsum(histogram)[:-1]])
        table = np.arange(256) if step == 0 else np.minimum((step // 2 + below) // step, 255)
        expected[..., channel] = table[values]
    np.testing.assert_array_equal(image_ops.equalize(image), expected)


def test_equalize_levels_a_large_image(rng):
    image = (rng.normal(100, 15, (300, 300, 1)).clip(0, 255)).astype(np.uint8)
    quarters = np.histogram(image_ops.equalize(image), bins=4, range=(0, 256))[0] / 90_000
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


@pytest.mark.parametrize("threshold", [0, 100, 128, 256])
def test_solarize(image, threshold):
    np.testing.assert_array_equal(image_ops.solarize(image, threshold), np.where(image < threshold, image, 255 - image))


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize(image, bits):
    np.testing.assert_array_equal(image_ops.posterize(image, bits), image // 2 ** (8 - bits) * 2 ** (8 - bits))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.55, 1.0, 1.9])
def test_blends(image, factor):
    x, grey = image.astype(np.float64), luma(image)
    agree(image_ops.brightness(image, factor), blended(0, x, factor), image)
    # The image that they blend with is itself rounded to grey levels.
    agree(image_ops.color(image, factor), blended(grey[..., None], x, factor), image, 1 + abs(1 - factor))
    agree(image_ops.contrast(image, factor), blended(grey.mean(), x, factor), image, 1 + abs(1 - factor))
    smooth = x.copy()
    padded = sum(x[1 + i : 12 + i, 1 + j : 16 + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    smooth[1:-1, 1:-1] = (padded + 4 * x[1:-1, 1:-1]) / 13  # the border has no neighbours and stays
    agree(image_ops.sharpness(image, factor), blended(smooth, x, factor), image, 1 + abs(1 - factor))
    if factor == 1:
        for operation in (image_ops.brightness, image_ops.color, image_ops.contrast, image_ops.sharpness):
            np.testing.assert_array_equal(operation(image, 1.0), image)
    if image.shape[-1] == 1:
        np.testing.assert_array_equal(image_ops.color(image, factor), image)


def sampled(image, matrix, fill):
    """Return the image sampled bilinearly at the source position of each pixel.

    Pixels have half-pixel centres, the border repeats, and source positions outside the image give `fill`.
    """
    a, b, c, d, e, f = matrix
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    from_x, from_y = from_x - 0.5, from_y - 0.5
    left, top = np.floor(from_x).astype(int), np.floor(from_y).astype(int)
    result = np.zeros(image.shape)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - abs(from_x - left - j)) * (1 - abs(from_y - top - i))
            pixels = image[np.clip(top + i, 0, height - 1), np.clip(left + j, 0, width - 1)]
            result += weight[..., None] * pixels
    return np.where(inside[..., None], result, fill)


@pytest.mark.parametrize("amount", [-0.27, -0.1, 0.2, 0.3])
def test_shears_and_translations(image, amount):
    fill = FILL[image.shape[-1]]
    for operation, matrix in (
        (image_ops.shear_x, (1, amount, 0, 0, 1, 0)),
        (image_ops.shear_y, (1, 0, 0, amount, 1, 0)),
        (image_ops.translate_x, (1, 0, 17 * amount, 0, 1, 0)),
        (image_ops.translate_y, (1, 0, 0, 0, 1, 13 * amount)),
    ):
        agree(operation(image, amount, fill), sampled(image, matrix, fill), image)


@pytest.mark.parametrize("degrees", [-27.0, 12.0, 30.0])
def test_rotation(image, degrees):
    """The rotation is counter-clockwise about the centre (8.5, 6.5); y points down."""
    fill, angle = FILL[image.shape[-1]], np.radians(degrees)
    a, b = np.cos(angle), -np.sin(angle)
    matrix = (a, b, 8.5 - a * 8.5 - b * 6.5, -b, a, 6.5 + b * 8.5 - a * 6.5)
    agree(image_ops.rotate(image, degrees, fill), sampled(image, matrix, fill), image)


def test_a_quarter_turn(rng):
    square = rng.integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(image_ops.rotate(square, 90.0, FILL[3]), np.rot90(square))


def test_whole_pixels_move_exactly(image):
    fill = FILL[image.shape[-1]]
    moved = image_ops.translate_x(image, 3 / 17, fill)
    np.testing.assert_array_equal(moved[:, :-3], image[:, 3:])
    assert (moved[:, -3:] == fill).all()


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_gaussian_blur(rng, radius):
    """The expected result is the exact Gaussian; Pillow's repeated box filters differ by a few grey levels on noise."""
    image = rng.integers(0, 256, (31, 37, 3), np.uint8)
    offsets = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (offsets / radius) ** 2)
    kernel /= kernel.sum()
    expected = np.pad(image.astype(np.float64), ((12, 12), (12, 12), (0, 0)), mode="edge")
    for axis in (0, 1):
        expected = np.apply_along_axis(np.convolve, axis, expected, kernel, mode="valid")
    result = image_ops.gaussian_blur(image, radius)
    agree(result, expected, image, 25)
    assert np.abs(result - expected).mean() < 5 < np.abs(image - expected).mean()
    flat = np.full((9, 11, 1), 77, np.uint8)
    np.testing.assert_array_equal(image_ops.gaussian_blur(flat, radius), flat)


@pytest.mark.usefixtures("unchecked_shapes")
def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"image has 2 channels, expected 1 \(grey\) or 3"):
        image_ops.solarize(np.zeros((3, 3, 2), np.uint8), 128)
