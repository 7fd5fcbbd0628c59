"""Tests of the explorer of attention: which map a pixel gets, its picture, and clicks."""

import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from aa_flax.inference import AttentionExplorer, Predictor
from aa_flax.models import create_model

SEEN = dict(
    names=("a", "b<c", "d"), mean=(0.5,), std=(0.25,), resize="squash", crop_fraction=1.0, interpolation="bilinear"
)
SMALL = dict(depth=10, widen_factor=1, num_classes=3, image_size=(12, 20), in_channels=1)
ATTENTION = dict(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3, attention_stages=(2, 3))


@pytest.fixture(scope="module")
def predictor():
    network = create_model("aa_wide_resnet28_10", **SMALL, **ATTENTION, rngs=nnx.Rngs(0))
    return Predictor.of(network, **SEEN)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(5).integers(0, 256, (36, 61), np.uint8)


@pytest.fixture(scope="module")
def explorer(predictor, photo):
    return AttentionExplorer(predictor, photo, places=5)


def test_a_pixel_has_the_maps_of_the_nearest_one_of_the_grid(explorer, predictor, photo):
    assert explorer.size == (12, 20) and explorer.grid == (3, 5)
    # Parts of the photograph are four pixels high and wide; the one of pixel 7, 19 has its middle at 6, 18.
    expected = predictor.attention_maps(photo, queries=[(6, 18)])
    found = explorer.maps(7, 19)
    assert [*found] == ["stage2.block1.conv1", "stage3.block1.conv1"]
    for path, weights in found.items():
        np.testing.assert_allclose(weights, expected[path][0, :, 0], rtol=1e-5, atol=1e-7)
    assert all(np.array_equal(explorer.maps(4, 16)[path], weights) for path, weights in found.items())
    assert not np.array_equal(explorer.maps(3, 19)["stage2.block1.conv1"], found["stage2.block1.conv1"])
    for outside in ((12, 0), (0, 20), (-1, 0)):
        with pytest.raises(ValueError, match="lies outside the photograph, which has 12x20 pixels"):
            explorer.maps(*outside)


def test_the_figure_has_every_head_of_each_layer(explorer, tmp_path):
    figure = explorer.figure(7, 19, tmp_path / "drawn.png")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [
        "pixel 6, 18",
        *(f"stage{stage}.block1\nhead {head}" for stage in (2, 3) for head in (1, 2)),
    ]
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width > 300


def test_what_is_not_there(predictor, explorer, photo, tmp_path):
    plain = Predictor.of(create_model("wide_resnet28_10", **SMALL, rngs=nnx.Rngs(0)), **SEEN)
    with pytest.raises(ValueError, match="no layer of this wide_resnet28_10 has pixels that attend to pixels"):
        AttentionExplorer(plain, photo)
    with pytest.raises(ValueError, match="got none"):
        AttentionExplorer({}, photo)
    with pytest.raises(ValueError, match="places must be at least 1, got 0"):
        AttentionExplorer(predictor, photo, places=0)
    with pytest.raises(KeyError, match="no network 'other'; there are network"):
        explorer.choose("other")
    assert explorer.network == "network"


def test_a_click_draws_and_another_network_looks(predictor, photo):
    pytest.importorskip("ipywidgets")
    explorer = AttentionExplorer({"first": predictor, "second": predictor.at((12, 12))}, photo, places=4)
    widget = explorer.widget()
    place, picture = widget.children
    chooser, photograph, words = place.children
    _, grid = photograph.children
    before = picture.value
    assert before[:4] == b"\x89PNG" and "b&lt;c" in words.value and len(grid.children) == 2 * 4
    grid.children[3].click()
    assert picture.value != before and "aa-flax-query" in grid.children[3]._dom_classes
    assert [button for button in grid.children if "aa-flax-query" in button._dom_classes] == [grid.children[3]]
    grid.children[5].click()
    assert "aa-flax-query" not in grid.children[3]._dom_classes
    chooser.value = "second"
    assert explorer.network == "second" and explorer.grid == (4, 4)
    assert len(place.children[1].children[1].children) == 16


def test_without_ipywidgets_a_notebook_shows_the_figure(explorer, monkeypatch, capsys):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(display, "display", shown.append)
    explorer._ipython_display_()
    assert len(shown) == 1 and shown[0].axes and "ipywidgets" in capsys.readouterr().out
