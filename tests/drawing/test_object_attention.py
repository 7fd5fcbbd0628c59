"""Tests of what detected objects attend to."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.text import Text
from PIL import Image

from aa_flax.drawing.attention_maps import attending_paths, attention_maps, last_of_each_stage
from aa_flax.drawing.object_attention import ObjectAttention, draw_objects, inside
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.models import create_model

BOXES = np.array([[4, 2, 11, 9], [0, 0, 8, 12], [1, 5, 1.5, 5.5], [0, 0, 16, 12], [9, 1, 15, 4]], float)


class Detector(nnx.Module):
    """A backbone in a network of which only one map is asked for, as in a detector."""

    def __init__(self, backbone):
        self.backbone = backbone

    def __call__(self, images, train=None):
        return self.backbone.features(images, train=train)["stage3"]


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def backbone():
    options = dict(depth=10, widen_factor=1, num_heads=2, upsilon=0.25, min_key_depth_per_head=3, num_classes=7)
    return create_model(
        "aa_wide_resnet28_10", image_size=(12, 16), attention_downsample=(2, 1, 1), **options, rngs=nnx.Rngs(0)
    )


@pytest.fixture(scope="module")
def attention(backbone, module_patch):
    """In pieces of 20 positions, so that the largest map takes three."""
    module_patch.setattr("aa_flax.drawing.object_attention._AT_ONCE", 20)
    return ObjectAttention(Detector(backbone))


def test_maps_are_the_mean_over_the_positions_in_the_box(backbone, attention, rng):
    image = jnp.asarray(rng.normal(size=(12, 16, 3)), jnp.float32)
    found = attention(image, BOXES)
    assert list(found) == [f"backbone.stage{k}.block1.conv1" for k in (1, 2, 3)] == attention.layers
    every = attention_maps(backbone, image[None])
    for path, maps in found.items():
        full = np.asarray(every[path.removeprefix("backbone.")][0], np.float64)  # [n, qh, qw, kh, kw]
        height, width = full.shape[1:3]
        assert maps.shape == (5, 2, height, width)
        for box, own in zip(BOXES, maps, strict=True):
            within = [
                (row, column)
                for row in range(height)
                for column in range(width)
                if box[0] <= (column + 0.5) * 16 / width <= box[2] and box[1] <= (row + 0.5) * 12 / height <= box[3]
            ] or [(int((box[1] + box[3]) / 2 * height / 12), int((box[0] + box[2]) / 2 * width / 16))]
            expected = np.mean([full[:, row, column] for row, column in within], 0)
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(own.sum((-2, -1)), 1, rtol=1e-5)


def test_positions_inside_boxes():
    boxes = np.array([[10, 0, 20, 10], [11, 3, 12, 4], [-9, -9, 90, 90], [11, 0, 12, 20]], np.float32)
    here = np.asarray(inside(boxes, (20, 40), (4, 8)))
    places = [list(zip(*(axis.tolist() for axis in np.nonzero(one)), strict=True)) for one in here]
    assert places[0] == [(0, 2), (0, 3), (1, 2), (1, 3)] and places[1] == [(0, 2)]
    assert len(places[2]) == 32 and places[3] == [(row, 2) for row in range(4)]


def test_no_objects(attention):
    maps = attention(jnp.zeros((12, 16, 3)), np.zeros((0, 4)))
    assert [m.shape[:2] for m in maps.values()] == [(0, 2)] * 3


def test_the_surest_objects_are_drawn_beside_their_maps(attention, rng, tmp_path):
    """The photograph fills 10 of 12 rows of the canvas; one row of panels for each object, the surest first."""
    pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
    figure = draw_objects(
        attention,
        jnp.asarray(pixels / 255 - 0.5, jnp.float32),
        pixels,
        BOXES,
        np.array([1, 0, 1, 0, 0]),
        np.array([0.3, 0.9, 0.6, 0.2, 0.1]),
        ["$x$", "a\\nb"],
        size=(10, 16),
        most=2,
        file=tmp_path / "x.png",
    )
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    words = [text.get_text() for text in texts]
    assert len(figure.axes) == 2 * 4 and not any(text.get_parse_math() for text in texts)
    assert [axes.texts[0].get_text() for axes in figure.axes[::4]] == ["$x$ 0.90", "a\\nb 0.60"]
    assert "backbone.stage1.block1\nmean of 2 heads at 6×8" in words
    assert sum("stays in the box" in word for word in words) == 6
    assert all(axes.get_ylim() == (9.5, -0.5) for axes in figure.axes)
    assert np.asarray(Image.open(tmp_path / "x.png").convert("L")).std() > 10


def test_networks_without_attention_and_layers_that_are_none(backbone):
    plain = create_model("resnet18", num_classes=3, rngs=nnx.Rngs(0))
    with pytest.raises(AttentionError, match="this ResNet has no attention to draw"):
        ObjectAttention(plain)
    with pytest.raises(
        ValueError, match="layers: 'stage1.block1' does not attend; attending layers: stage1.block1.conv1"
    ):
        ObjectAttention(backbone, ["stage1.block1"])
    assert ObjectAttention(backbone, ["stage2.block1.conv1"]).layers == ["stage2.block1.conv1"]


def test_stages_of_a_backbone_have_a_last_layer_each(backbone):
    layers, _ = attending_paths(Detector(backbone))
    assert last_of_each_stage([*layers, "backbone.stage3.block2.conv1"]) == [
        "backbone.stage1.block1.conv1",
        "backbone.stage2.block1.conv1",
        "backbone.stage3.block2.conv1",
    ]
    assert last_of_each_stage(["encoder.a", "encoder.b", "mixer.c"]) == ["encoder.b", "mixer.c"]
