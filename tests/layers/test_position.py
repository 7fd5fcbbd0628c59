import numpy as np
import pytest

from aa_flax.layers import coordinates, sinusoids


def test_coordinates_are_x_y_and_the_distance_from_the_centre():
    c = np.asarray(coordinates(3, 5))
    np.testing.assert_allclose(c[1, :, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(c[:, 2, 1], [-1, 0, 1])
    np.testing.assert_allclose(c[..., 2], np.sqrt(c[..., 0] ** 2 + c[..., 1] ** 2), rtol=1e-6)
    assert c[1, 2, 2] == 0


def test_coordinates_of_one_row_are_its_centre():
    assert np.all(np.asarray(coordinates(1, 4))[..., 1] == 0)


@pytest.mark.parametrize("channels", [8, 6, 5, 1])
def test_sinusoids_encode_the_row_first_then_the_column(channels):
    s = np.asarray(sinusoids(4, 7, channels), np.float64)
    half = (channels + 1) // 2
    assert np.ptp(s[..., :half], axis=1).max() == 0  # the same along a row
    assert np.ptp(s[..., half:], axis=0).max(initial=0) == 0  # the same down a column
    for part, position in ((s[..., :half], np.arange(4)[:, None]), (s[..., half:], np.arange(7)[None, :])):
        m = part.shape[-1]
        for channel in range(m):
            angle = position / 10000 ** ((channel - channel % 2) / m)
            expected = np.cos(angle) if channel % 2 else np.sin(angle)
            np.testing.assert_allclose(part[..., channel], np.broadcast_to(expected, (4, 7)), atol=1e-6)
