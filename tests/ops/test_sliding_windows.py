"""Tests of windows that slide along an axis, by loops."""

import jax
import numpy as np
import pytest

from aa_flax.ops.sliding_windows import Windows, taps


def starts_by_hand(size, crop, stride):
    """Return the first pixel of each window, as mmsegmentation has them."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, size) - crop, 0) for i in range(count)]


CASES = [(40, 13, 13), (40, 13, 5), (12, 12, 1), (31, 7, 6)]


@pytest.mark.parametrize(("canvas", "crop", "stride"), CASES)
def test_windows_are_where_mmsegmentation_has_them(canvas, crop, stride):
    windows = Windows(canvas, crop, stride)
    for size in range(1, canvas + 1):
        expected = starts_by_hand(size, crop, stride)
        assert windows.count(size) == len(expected) <= windows.most
        assert windows.starts(size)[: len(expected)].tolist() == expected
    with pytest.raises(ValueError, match="stride, crop and canvas"):
        Windows(canvas, crop, crop + 1)


@pytest.mark.parametrize(("canvas", "crop", "stride"), CASES)
def test_matrices_resize_windows_and_take_their_mean(rng, canvas, crop, stride):
    windows, places = Windows(canvas, crop, stride), 3
    sizes = np.array([canvas, canvas - 5, 5])
    traced = jax.jit(lambda sizes: windows.matrix(sizes, places, jax.numpy))(sizes)
    for size, on_device in zip(sizes.tolist(), traced, strict=True):
        values = rng.normal(0, 1, (windows.most, places))
        total, count = np.zeros(canvas), np.zeros(canvas)
        for start, of_window in zip(starts_by_hand(size, crop, stride), values, strict=False):
            centres = np.clip((np.arange(crop) + 0.5) * places / crop - 0.5, 0, places - 1)
            total[start : start + crop] += np.interp(centres, np.arange(places), of_window)
            count[start : start + crop] += 1
        matrix = windows.matrix(size, places)
        np.testing.assert_allclose(np.einsum("cwp,wp->c", matrix, values), total / np.maximum(count, 1), atol=1e-12)
        np.testing.assert_allclose(on_device, matrix, atol=1e-5)
        assert (count[:size] > 0).all()


def test_positions_beyond_the_ends_have_the_last_value():
    np.testing.assert_allclose(taps(np.array([-3.0, 0.25, 9.0]), 3), [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 1]])
