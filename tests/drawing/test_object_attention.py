"""Tests of what detected objects attend to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing import photo_attention
from aa_flax.drawing.attention_maps import attention_maps, last_of_each_stage
from aa_flax.drawing.object_attention import ObjectAttention, draw_objects, inside, object_attention_figure
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.query_attention import attention_figure
from aa_flax.layers import AAConv2D
from aa_flax.models import create_model

BOXES = np.array([[4, 2, 11, 9], [0, 0, 8, 12], [1, 5, 1.5, 5.5], [0, 0, 16, 12], [9, 1, 15, 4]], float)


class Backbone(nnx.Module):
    def __init__(self):
        options = dict(num_heads=2, key_depth=8, value_depth=4, min_key_depth_per_head=1, rngs=nnx.Rngs(0))
        self.stage1 = AAConv2D(3, 8, 3, spatial_shape=(12, 16), attention_downsample=2, **options)
        self.stage2 = AAConv2D(8, 8, 3, spatial_shape=(12, 16), strides=4, **options)

    def __call__(self, images):
        return self.stage2(self.stage1(images))


class Detector(nnx.Module):
    def __init__(self):
        self.backbone = Backbone()

    def __call__(self, images):
        return self.backbone(images)


@pytest.fixture(scope="module")
def attention():
    """In pieces of 20 positions, so that the largest map takes three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aa_flax.drawing.object_attention._AT_ONCE", 20)
        yield ObjectAttention(Detector())


def test_maps_are_the_mean_over_the_positions_in_the_box(attention, rng):
    image = jnp.asarray(rng.normal(size=(12, 16, 3)), jnp.float32)
    found = attention(image, BOXES)
    assert list(found) == ["backbone.stage1", "backbone.stage2"] == attention.layers
    backbone = Backbone()

    @jax.jit
    def weights(images):
        return backbone.stage1.attention_weights(images), backbone.stage2.attention_weights(backbone.stage1(images))

    every = weights(image[None])
    for maps, (full,), (height, width) in zip(found.values(), every, ((6, 8), (3, 4)), strict=True):
        full = np.asarray(full, np.float64)  # [n, qh, qw, kh, kw]
        assert maps.shape == (5, 2, height, width) == (5, *full.shape[:3])
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


@pytest.mark.thorough
def test_maps_of_a_resnet_are_those_of_attention_maps(rng):
    model = create_model("aa_resnet50", num_classes=0, image_size=64, rngs=nnx.Rngs(0))
    image = jnp.asarray(rng.normal(size=(64, 64, 3)), jnp.float32)
    maps = ObjectAttention(model)(image, np.array([[20.0, 20, 28, 28]]))
    assert list(maps) == ["stage2.block4.conv2", "stage3.block6.conv2", "stage4.block3.conv2"]
    # The box has one position of each map, or is nearest to it.
    for path, of_pixel in attention_maps(model, image[None], layers=list(maps), queries=[(24, 24)]).items():
        np.testing.assert_allclose(maps[path][0], of_pixel[0, :, 0], rtol=1e-4, atol=1e-6)


def test_positions_inside_boxes():
    boxes = np.array([[10, 0, 20, 10], [11, 3, 12, 4], [-9, -9, 90, 90], [11, 0, 12, 20]], np.float32)
    here = np.asarray(inside(boxes, (20, 40), (4, 8)))
    places = [list(zip(*(axis.tolist() for axis in np.nonzero(one)), strict=True)) for one in here]
    assert places[0] == [(0, 2), (0, 3), (1, 2), (1, 3)] and places[1] == [(0, 2)]
    assert len(places[2]) == 32 and places[3] == [(row, 2) for row in range(4)]


def test_no_objects(attention):
    maps = attention(jnp.zeros((12, 16, 3)), np.zeros((0, 4)))
    assert [m.shape[:2] for m in maps.values()] == [(0, 2)] * 2


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
    assert len(figure.axes) == 2 * 3 and not any(text.get_parse_math() for text in texts)
    assert [axes.texts[0].get_text() for axes in figure.axes[::3]] == ["$x$ 0.90", "a\\nb 0.60"]
    assert "stage1\nmean of 2 heads at 6×8" in words
    assert sum("stays in the box" in word for word in words) == 4
    assert all(axes.get_ylim() == (9.5, -0.5) for axes in figure.axes)
    assert np.asarray(Image.open(tmp_path / "x.png").convert("L")).std() > 10


def words_in_their_places(figure):
    """Draw a figure and return its words outside of photographs; none lies over another or beyond the border."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.texts if text.get_text()]
    texts += [axes.title for axes in figure.axes if axes.title.get_text()]
    places = [text.get_window_extent() for text in texts]
    assert all(p.x0 >= 0 and p.y0 >= 0 and p.x1 <= figure.bbox.x1 and p.y1 <= figure.bbox.y1 for p in places)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(places, 2))
    return [text.get_text() for text in texts]


def layers(rng, count, canvas=(64, 64)):
    """Return maps of three layers of a detector, of so many objects or queries: [count, heads, h, w] each."""
    sides = {f"backbone.stage{2 + k}.block{4 - k}.conv2": (canvas[0] >> 3 + k, canvas[1] >> 3 + k) for k in range(3)}
    return {path: rng.random((count, 8, *side)) for path, side in sides.items()}


@pytest.mark.few
@pytest.mark.parametrize("size", [(64, 13), (17, 64), (64, 64)])
def test_words_have_room_whatever_the_aspect(rng, size):
    """Photographs on a canvas of 64 pixels that they do not fill."""
    height, width = size
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:height, :width] = 200
    boxes = np.array([[1, 2, width - 1, height / 2], [0, 0, width / 3, height / 4]])
    names = ["a class of a long name", "dog"]
    figure = object_attention_figure(pixels, boxes, np.array([0, 1]), np.array([0.9, 0.4]), names, layers(rng, 2), size)
    words = words_in_their_places(figure)
    assert {"stage2.block4\nmean of 8 heads at 8×8", "stage4.block2\nmean of 8 heads at 2×2"} <= {*words}
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    for named in ("a class of a long name 0.90", "dog 0.40"):
        assert named in words or named in inside
    maps = {path: m[:, :, None] for path, m in layers(rng, 1).items()}
    figure = attention_figure(pixels[None], ["pixel 3, 4"], maps, [(3, 4)], sizes=[size])
    words = words_in_their_places(figure)
    assert words == ["pixel 3, 4", *(f"stage{2 + k}.block{4 - k}\nhead {n + 1}" for k in range(3) for n in range(4))]
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 13
    for axes in shown:
        assert axes.get_xlim() == (-0.5, width - 0.5) and axes.get_ylim() == (height - 0.5, -0.5)


def test_maps_of_queries_are_drawn_of_each_photographs_part(rng, tmp_path, monkeypatch):
    """Centres are those of the photographs and not of their canvas; a query beside a photograph is refused."""
    drawn = []
    monkeypatch.setattr(photo_attention, "attending_paths", lambda model: (["backbone.stage1.conv1"], []))
    monkeypatch.setattr(photo_attention, "attention_figure", lambda *a, **k: drawn.append((a, k)))
    asked = []

    def maps(model, images, layers, queries):
        asked.append(queries)
        return {layers[0]: np.arange(len(images) * len(queries)).reshape(len(images), 1, len(queries), 1, 1)}

    monkeypatch.setattr(photo_attention, "attention_maps", maps)
    photos = dict.fromkeys(("tall.png", "wide.png", "both.png"), np.zeros((40, 40, 3), np.uint8))
    sizes = {"tall.png": (40, 10), "wide.png": (20, 40), "both.png": (40, 10)}
    files = {name: tmp_path / name for name in photos}
    captions = {"wide.png": [(0, "cat"), (1, "dog")]}
    same = Preprocessing((40, 40), 3, (0.0,) * 3, (1.0,) * 3, ("cat", "dog"), "float32", "")
    arguments = (Plain(), same, photos, captions, ["backbone.stage1.conv1"])
    photo_attention.draw_photos(*arguments, None, files, sizes)
    assert asked == [[(20, 5), (10, 20)]]
    assert [(a[1], a[2]["backbone.stage1.conv1"].item(), a[3], k) for a, k in drawn] == [
        (["pixel 20, 5"], 0, [(20, 5)], {"sizes": [(40, 10)]}),
        (["cat"], 3, [(10, 20)], {"sizes": [(20, 40)]}),
        (["pixel 20, 5"], 4, [(20, 5)], {"sizes": [(40, 10)]}),
    ]
    with pytest.raises(AttentionError, match=r"--query=5,15 lies outside tall.png, which fills 40x10 pixels"):
        photo_attention.draw_photos(*arguments, (5, 15), files, sizes)


class Plain(nnx.Module):
    def __call__(self, images):
        return images


def test_networks_without_attention_and_layers_that_are_none():
    with pytest.raises(AttentionError, match="this Plain has no attention to draw"):
        ObjectAttention(Plain())
    with pytest.raises(
        ValueError, match="layers: 'backbone' does not attend; attending layers: backbone.stage1, backb"
    ):
        ObjectAttention(Detector(), ["backbone"])
    assert ObjectAttention(Detector(), ["backbone.stage2"]).layers == ["backbone.stage2"]


def test_stages_of_a_backbone_have_a_last_layer_each():
    layers = ["backbone.stage3.block1.conv2", "backbone.stage3.block2.conv2", "backbone.stage4.block1.conv2"]
    assert last_of_each_stage(layers) == layers[1:]
    assert last_of_each_stage([path.removeprefix("backbone.") for path in layers]) == [
        "stage3.block2.conv2",
        "stage4.block1.conv2",
    ]
    assert last_of_each_stage(["encoder.a", "encoder.b", "mixer.c"]) == ["encoder.b", "mixer.c"]
