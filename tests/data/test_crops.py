import numpy as np
import pytest

from aa_flax.data.crops import pad_crop, resized_crop
from aa_flax.data.images import resize


def test_pad_crop_is_a_crop_of_the_padded_image(rng):
    image, fill = rng.integers(0, 256, (5, 7, 3), np.uint8), np.array([1, 2, 3], np.uint8)
    padded = np.empty((5 + 6, 7 + 6, 3), np.uint8)
    padded[...] = fill
    padded[3:8, 3:10] = image
    windows = {padded[y : y + 5, x : x + 7].tobytes(): (y, x) for y in range(7) for x in range(7)}
    assert len(windows) == 49
    seen = {windows[pad_crop(image, 3, fill, rng).tobytes()] for _ in range(1000)}
    # All 49 offsets in 1000 draws: one is missed with probability 49 × (48 / 49)^1000 < 1e-7.
    assert len(seen) == 49


def test_pad_crop_by_the_whole_side(rng):
    image = rng.integers(0, 256, (2, 3, 1), np.uint8)
    for _ in range(50):
        assert pad_crop(image, 2, np.array([9], np.uint8), rng).shape == (2, 3, 1)


def test_resized_crop_takes_the_announced_parts(rng):
    # The pixels of the image are their own coordinates, so a crop shows its position.
    rows, columns = np.meshgrid(np.arange(200), np.arange(250), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    areas, ratios = [], []
    for _ in range(400):
        crop = resized_crop(image, (20, 20), rng).astype(float)
        # 20 pixels span 19 / 20 of the crop.
        height, width = ((crop[-1, -1] - crop[0, 0])[:2] + 1) * 20 / 19
        areas.append(height * width / (200 * 250))
        ratios.append(width / height)
    # Coordinates are rounded and filtered at the borders: allow a tenth.
    assert 0.08 * 0.9 < min(areas) < 0.2
    assert 0.8 < max(areas) < 1.1
    assert 0.75 * 0.9 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 4 / 3 * 1.1
    # Areas are uniform in 0.08..1, without boxes that do not fit, mostly large ones: the mean is below the middle.
    assert 0.4 < np.mean(areas) < 0.56


@pytest.mark.parametrize("shape", [(3, 90, 3), (90, 3, 1)])
def test_resized_crop_of_extreme_shapes(rng, shape):
    image = rng.integers(0, 256, shape, np.uint8)
    for _ in range(20):
        assert resized_crop(image, (5, 7), rng).shape == (5, 7, shape[-1])


def test_resizing_is_antialiased():
    board = np.indices((64, 64)).sum(0)[..., None] % 2 * 255
    small = resize(board.astype(np.uint8), (7, 9))
    # A fine chessboard has to become grey; without a filter it would alias to a coarser one.
    assert np.abs(small.astype(int) - 127).max() <= 3
