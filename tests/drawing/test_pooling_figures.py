import numpy as np
import pytest
from PIL import Image

from aa_flax.drawing.pooling_figures import COLORS, overlay, pooling_figure, scaled_map

CLASSES = ("tench", "church", "chain saw", "gas pump")


def corner(h=6, w=4):
    """Return weights that are large at the upper right and small elsewhere."""
    weights = np.full((h, w), 0.01)
    weights[0, -1] = 0.5
    return weights


@pytest.fixture
def photos(rng):
    return rng.integers(0, 256, (2, 48, 32, 3), np.uint8)


def test_a_map_at_the_size_of_the_photo():
    scaled = scaled_map(corner(), (48, 32))
    assert scaled.shape == (48, 32) and scaled.min() == 0 and scaled.max() == 1
    row, column = np.unravel_index(scaled.argmax(), scaled.shape)
    assert row < 8 and column >= 24
    assert scaled[24:, :16].max() < 0.1
    np.testing.assert_allclose(scaled_map(7 * corner(), (48, 32)), scaled, atol=1e-6)
    np.testing.assert_array_equal(scaled_map(np.full((6, 4), 1 / 24), (48, 32)), np.zeros((48, 32)))
    np.testing.assert_array_equal(scaled_map(np.zeros((1, 1)), (3, 5)), np.zeros((3, 5)))


def test_overlay_is_grey_where_nothing_is_looked_at(photos):
    maps = np.zeros((2, 48, 32), np.float32)
    maps[0, :8], maps[1, -8:] = 1, 1
    drawn = overlay(photos[0], maps)
    assert drawn.shape == (48, 32, 3) and drawn.min() >= 0 and drawn.max() <= 1
    grey = np.repeat(photos[0].mean(-1, keepdims=True) / 255, 3, -1)
    np.testing.assert_allclose(drawn[8:-8], grey[8:-8], atol=1e-6)
    for rows, color in ((slice(0, 8), COLORS[0]), (slice(-8, None), COLORS[1])):
        tint = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        np.testing.assert_allclose(drawn[rows], 0.25 * grey[rows] + 0.75 * tint, atol=1e-6)


def texts(figure):
    return [axes.get_title() for axes in figure.axes], [axes.get_xlabel() for axes in figure.axes]


def test_a_single_token(photos, tmp_path):
    weights = np.stack([corner(), corner().T.reshape(6, 4)])[:, None]
    probabilities = np.array([[0.1, 0.6, 0.2, 0.1], [0.25, 0.2, 0.25, 0.3]])
    figure = pooling_figure(photos, weights, probabilities, CLASSES, titles=("a", "b"), file=tmp_path / "one.png")
    titles, labels = texts(figure)
    assert titles == ["church\n60.0 %", "", "gas pump\n30.0 %", ""]
    assert labels == ["", "at most 12 times the even share"] * 2
    assert [axes.get_ylabel() for axes in figure.axes] == ["a", "", "b", ""]
    yellow = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    assert ((yellow[..., 0] - yellow[..., 2]) > 120).sum() > 200


def test_a_token_for_each_class(photos):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(24), (1, 4)).reshape(1, 4, 6, 4)
    figure = pooling_figure(photos[:1], weights, np.array([[0.1, 0.6, 0.21, 0.09]]), CLASSES, top=3)
    titles, labels = texts(figure)
    assert titles == ["", "", "church\n60.0 %", "chain saw\n21.0 %", "tench\n10.0 %"]
    assert labels[:2] == ["", "a colour for each class"]
    for axes, k in zip(figure.axes[2:], (1, 2, 0), strict=True):
        expected = photos[0] / 255 * scaled_map(weights[0, k], (48, 32))[..., None]
        np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-6)
    # Fewer classes than panels, and a grey photo.
    few = pooling_figure(photos[:1, ..., :1], weights[:, :2], np.array([[0.9, 0.1]]), CLASSES[:2])
    assert texts(few)[0][2:] == ["tench\n90.0 %", "church\n10.0 %"]


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(photos):
    with pytest.raises(ValueError, match="weights must be of one token or of 4, one for each class, got 3"):
        pooling_figure(photos, np.ones((2, 3, 6, 4)), np.ones((2, 4)), CLASSES)
    with pytest.raises(ValueError, match=r"as many images, and of 4 classes; got 2, 1 and \(1, 4\)"):
        pooling_figure(photos, np.ones((1, 4, 6, 4)), np.ones((1, 4)), CLASSES)
