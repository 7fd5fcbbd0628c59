"""Tests of pictures of a data set's examples."""

import numpy as np
import odd_names
import pytest
from matplotlib.text import Text
from PIL import Image

from aa_flax.drawing.boxes import class_color
from aa_flax.drawing.examples import Annotated, draw_examples
from aa_flax.drawing.label_maps import label_colors
from aa_flax.drawing.saving import drawable_names


@pytest.mark.parametrize("given", [(), [(10, 20, 200), (200, 20, 10), (1, 2, 3)]])
def test_classes_have_their_colours_and_names(given, tmp_path):
    labels = np.repeat(np.array([[0, 1, 255]], np.uint8), 30, 1).repeat(60, 0)
    examples = [Annotated(np.full((60, 90, 3), 100, np.uint8), f"number {k}", labels=labels) for k in range(5)]
    names = odd_names.NAMES[:3]
    figure = draw_examples(examples, names, tmp_path / "x.png", given_colors=given, opacity=0.5)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert [f"number {k}" for k in range(5)] == [text for text in texts if text.startswith("number")]
    # Only classes that are seen have a key.
    assert set(drawable_names(names)[:2]) <= {*texts} and drawable_names(names)[2] not in texts
    with Image.open(tmp_path / "x.png") as drawn:
        picture = np.asarray(drawn.convert("RGB")).astype(int)
    colors = label_colors(3, given).astype(int)
    for color in ((colors[0] + 100) // 2, (colors[1] + 100) // 2, [100, 100, 100]):  # what has no class stays
        assert (abs(picture - color).max(-1) <= 1).mean() > 0.15
    for color in colors[:2]:
        assert (abs(picture - color).max(-1) <= 1).mean() > 1e-4  # of the key


def test_boxes_and_single_classes(tmp_path):
    grey = np.full((20, 31, 1), 90, np.uint8)
    box = Annotated(grey, "x", boxes=np.array([[3.0, 4, 20, 12]], np.float32), classes=np.array([1]))
    mask = np.zeros((20, 31), np.bool_)
    mask[6:9, 5:11] = True
    draw_examples([box._replace(masks=[mask])], ("ant", "$bee$"), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as drawn:
        ink = np.round(255 * np.array(class_color(1))).astype(int)
        inside = abs(np.asarray(drawn.convert("RGB")).astype(int) - (90 + 0.45 * (ink - 90))).max(-1) <= 2
    assert 1e-3 < inside.mean() < 0.1
    figure = draw_examples([box, Annotated(grey, "a" * 99)], ("ant", "$bee$"), tmp_path / "x.png")
    texts = {text.get_text() for text in figure.findobj(Text)} - {""}
    assert texts == {"x", "$bee$", "a" * 43 + "\N{HORIZONTAL ELLIPSIS}"}
    with Image.open(tmp_path / "x.png") as drawn:
        assert drawn.size[0] == round(figure.bbox.width)
