"""Tests of pictures of where attention pooling looks for the classes of a label map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from aa_flax.analysis import attention_maps
from aa_flax.drawing.label_maps import label_colors
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.segment_pooling import SegmentPooling, attention_on, draw_segment_pooling, segment_pooling_figure
from aa_flax.models import create_model

NAMES = ("$sky_1$", "road", "tree\x00", "car")


def test_the_part_of_attention_on_a_segment_is_that_of_loops(rng):
    """On a canvas that the map's positions do not divide, which the photograph does not fill."""
    segment, weights, (height, width) = rng.random((11, 13)) < 0.4, rng.random((3, 4)), (14, 17)
    fine = np.zeros((height * 3, width * 4))  # each pixel as 3 × 4 parts, each position as height × width of them
    for i in range(11):
        for j in range(13):
            fine[i * 3 : i * 3 + 3, j * 4 : j * 4 + 4] = segment[i, j]
    within = even = 0.0
    for row in range(3):
        for column in range(4):
            part = fine[row * height : (row + 1) * height, column * width : (column + 1) * width].mean()
            within, even = within + weights[row, column] * part, even + part / 12
    np.testing.assert_allclose(attention_on(segment, weights, (height, width)), (within / weights.sum(), even))
    np.testing.assert_allclose(attention_on(segment, np.ones((3, 4)), (height, width)), (even, even))


def test_a_panel_for_each_class_of_the_label_map(rng, tmp_path):
    pixels, labels = rng.integers(0, 256, (32, 48, 3), np.uint8), np.zeros((30, 40), np.uint8)
    labels[20:], labels[:5, :8], labels[0, 0] = 1, 3, 255
    weights = np.full((4, 4, 6), 1 / 24, np.float32)
    weights[3] = 0.01
    weights[3, 0, 0] = 0.77  # all of it lies on the car's segment, as far as that fills the position
    colors = label_colors(4)
    figure = segment_pooling_figure(
        pixels, labels, weights, np.array([1, 0.5, 0.2, 0.977]), NAMES, colors, file=tmp_path / "one.png"
    )
    said = [(axes.get_title().replace("\\", ""), axes.get_xlabel()) for axes in figure.axes]
    even = [100 * (labels == k).sum() / (32 * 48) for k in range(4)]
    assert [title for title, _ in said] == [
        "photograph",
        "label map",
        "$sky_1$: occurs 100.0 %",
        "road: occurs 50.0 %",
        "car: occurs 97.7 %",
        *[""] * 3,
    ]
    assert [label for _, label in said[2:4]] == [f"{each:.1f} % on the segment ({each:.1f} %)" for each in even[:2]]
    assert said[4][1] == f"{100 * (0.77 * 39 / 64):.1f} % on the segment ({even[3]:.1f} %)"
    assert figure.axes[4].spines["left"].get_edgecolor()[:3] == pytest.approx(tuple(colors[3] / 255))
    lit = np.asarray(figure.axes[4].images[0].get_array())
    np.testing.assert_allclose(lit[0, 0], pixels[0, 0] / 255, atol=0.01)  # bright there and dark elsewhere
    assert (lit[20:] <= 0.3 * pixels[20:30, :40] / 255).all()
    assert tmp_path.joinpath("one.png").stat().st_size > 10_000
    even_map = np.asarray(figure.axes[2].images[0].get_array())
    np.testing.assert_allclose(even_map, 0.15 * pixels[:30, :40] / 255, atol=1e-6)  # shows nothing
    fewer = segment_pooling_figure(pixels[..., :1], labels, weights, np.ones(4), NAMES, colors, most=1)
    assert [axes.get_title().replace("\\", "") for axes in fewer.axes] == ["photograph", "label map", said[2][0]]


@pytest.mark.thorough
def test_the_picture_of_a_network(rng, tmp_path):
    """Its maps are those of `attention_maps`, and its probabilities those of the presence head."""
    small = dict(width=8, depth=4, head_width=8, num_classes=4, image_size=(32, 48))
    model = create_model("semantic_fpn_patchconvnet_s60", **small, presence_head=True, rngs=nnx.Rngs(0))
    pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
    image = jnp.asarray(pixels, jnp.float32) / 128 - 1
    pooling = SegmentPooling(model)
    weights, probabilities = pooling(image)
    np.testing.assert_allclose(weights, attention_maps(model, image[None])["pooling"][0, 0], rtol=1e-5)
    expected = jax.nn.sigmoid(model.outputs(image[None])["presence"][0])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)
    labels = rng.integers(0, 4, (32, 48)).astype(np.uint8)
    draw_segment_pooling(pooling, image, pixels, labels, NAMES, label_colors(4), file=tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] > 400
    with pytest.raises(AttentionError, match="has no attention pooling to draw"):
        SegmentPooling(create_model("semantic_fpn_patchconvnet_s60", **small, rngs=nnx.Rngs(0)))
