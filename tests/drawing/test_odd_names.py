"""Names in pictures are drawn as they are: no mathematics, no TeX, nothing that moves or hides, no two the same."""

import matplotlib
import numpy as np
import odd_names
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from aa_flax.drawing import plots
from aa_flax.drawing.pooling_figures import pooling_figure
from aa_flax.drawing.query_attention import attention_figure
from aa_flax.drawing.saving import drawable, drawable_names, saved

FEW = odd_names.NAMES[:29]
"""As many names as a confusion matrix has in words."""


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def is_plain(figure):
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    return not any(text.get_parse_math() or text.get_usetex() for text in texts) and all(
        odd_names.is_clean(text.get_text()) for text in texts
    )


def test_names_of_a_confusion_matrix(tmp_path):
    for names, file in ((FEW, None), ((*odd_names.SCRIPTS, *odd_names.BYTES, *odd_names.UNSEEN), tmp_path / "x.png")):
        figure = plots.confusion_matrix(np.eye(len(names), dtype=int), names, file)
        drawn = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert drawn == drawable_names(names) and len(set(drawn)) == len(names) and is_plain(figure)
    with Image.open(tmp_path / "x.png") as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_names_over_attention(tmp_path, rng):
    for name in odd_names.NAMES:
        assert drawable(f"{name}\n99 %").endswith("\n99 %")
    names = odd_names.NAMES[-3:]
    weights = rng.random((3, 1, 2, 2))
    photos = rng.integers(0, 256, (3, 5, 7, 3), np.uint8)
    figure = pooling_figure(photos, weights, np.eye(3), names, titles=FEW[:3], file=tmp_path / "x.png")
    assert is_plain(figure) and {f"{name}\n100.0 %" for name in names} <= set(words(figure))
    maps = {"layer[0]$x$": rng.random((2, 1, 1, 3, 4))}
    figure = attention_figure(photos[:2], ["\x1b[1m$x$", "\u202e"], maps, [(1, 1)], tmp_path / "y.png")
    assert is_plain(figure) and {"\\x1b[1m$x$", "\\u202e"} <= set(words(figure))


def test_names_of_scores(tmp_path):
    rows = [{"split": "eval", "epoch": 1, "loss": 1, name: 0.5} for name in odd_names.MARKUP[:4]]
    assert is_plain(plots.learning_curves(rows, tmp_path / "x.png"))


def test_characters_that_the_font_lacks_are_told_apart(tmp_path):
    """Of them it has a box, so that two names in another script would be the same row of boxes."""
    cat, dog = "\u732b", "\u72d7"
    assert drawable_names([cat, dog, "\u00e9"]) == ["\\u732b", "\\u72d7", "\u00e9"]
    assert drawable_names(["a" * 90 + "b", "a" * 90 + "c"]) == [f"{'a' * 30}\u2026 (0)", f"{'a' * 30}\u2026 (1)"]


def test_tex_is_off_whatever_the_user_has_set():
    with matplotlib.rc_context({"text.usetex": True}):
        assert is_plain(plots.confusion_matrix(np.eye(3, dtype=int), odd_names.MARKUP[:3]))


def test_file_names_are_paths_not_text(tmp_path):
    for name in ("$x$", "\x1b[31m\n", odd_names.BYTES[0], "%s{0}"):
        file = tmp_path / f"{name}.png"
        assert saved(Figure(figsize=(1, 1)), file, 30) and file.is_file()
