"""Tests of boxes over photographs, of plots of a detector's scores and of its galleries."""

import dataclasses

import coco_by_hand
import matplotlib
import numpy as np
import odd_names
import pytest
from coco_by_hand import found, truth
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from aa_flax.drawing.boxes import class_color, draw_boxes
from aa_flax.drawing.detection_gallery import mistakes_by_kind, truths_beside_detections, worst
from aa_flax.drawing.detection_plots import ap_by_class, f1_by_threshold, kinds_of_mistakes, precision_recall
from aa_flax.evaluation import score_threshold
from aa_flax.evaluation.coco import evaluate
from aa_flax.evaluation.matching import match_all
from aa_flax.evaluation.mistakes import KINDS, Verdict, count_kinds, judge

BOXES = np.array([[20, 30, 70, 90], [60, 10, 110, 60], [5, 60, 15, 70]], float)
NAMES = ["$x$", "a\\nb", "dog_$1"]


def pixels_of(file):
    return np.asarray(Image.open(file).convert("RGB"))


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def is_plain(figure):
    return not any(text.get_parse_math() or text.get_usetex() for text in figure.findobj(Text) if text.get_text())


def extents(figure):
    """Return where the names over photographs stand, in pixels."""
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in figure.axes[0].texts]


def photo(rng, height=100, width=130, channels=3):
    return rng.integers(90, 160, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("size", "picture"), [((100, 130), (492, 640)), ((48, 32), (640, 427)), ((900, 1100), (900, 1100))]
)
def test_boxes_lie_where_they_should(rng, tmp_path, size, picture):
    """A picture of small photographs is enlarged; a box is drawn around the pixels that it holds."""
    pixels = np.full((*size, 3), 255, np.uint8)
    box = np.array([0.25 * size[1], 0.5 * size[0], 0.75 * size[1], 0.9 * size[0]])
    figure = draw_boxes(pixels, box[None], np.array([1]), NAMES, np.array([0.5]), tmp_path / "x.png")
    drawn = pixels_of(tmp_path / "x.png").astype(float)
    assert drawn.shape[:2] == picture
    blue = np.abs(drawn - 255 * np.array(class_color(1))).sum(-1) < 60
    rows, columns = np.nonzero(blue & (np.arange(picture[0]) > 0.55 * picture[0])[:, None])  # without the name
    scale = picture[1] / size[1]
    assert columns.min() == pytest.approx(box[0] * scale, abs=3) and columns.max() == pytest.approx(
        box[2] * scale, abs=3
    )
    assert rows.max() == pytest.approx(box[3] * scale, abs=3)
    assert words(figure) == ["a\\nb 0.50"]


def test_names_are_literal_and_stand_inside_without_touching(rng, tmp_path):
    boxes = np.concatenate([BOXES, [[-20, -20, 12, 12], [100, 80, 160, 140], [22, 31, 72, 92]]])
    labels = np.array([0, 1, 2, 0, 1, 2])
    figure = draw_boxes(photo(rng), boxes, labels, NAMES, np.linspace(0.9, 0.4, 6), tmp_path / "x.png")
    assert is_plain(figure) and set(words(figure)) == {
        f"{NAMES[label]} {score:.2f}" for label, score in zip(labels, np.linspace(0.9, 0.4, 6), strict=True)
    }
    assert pixels_of(tmp_path / "x.png").shape == (492, 640, 3)
    stand = extents(figure)
    for k, one in enumerate(stand):
        assert min(one.x0, one.y0) >= 0 and one.x1 <= 640 and one.y1 <= 492
        assert not any(one.overlaps(other) for other in stand[:k])


def test_crowded_names_make_room_and_a_key_says_the_colours(rng):
    boxes = np.repeat(BOXES, 25, 0) + rng.uniform(0, 6, (75, 1))
    labels, scores = np.repeat([0, 1, 2], 25), rng.random(75)
    figure = draw_boxes(photo(rng), boxes, labels, NAMES, scores)
    stand = extents(figure)
    assert 3 <= len(stand) < 75 and not any(a.overlaps(b) for k, a in enumerate(stand) for b in stand[:k])
    named = {text.get_text() for text in figure.axes[0].texts}
    surest = int(scores.argmax())
    assert f"{NAMES[labels[surest]]} {scores[surest]:.2f}" in named
    assert [text.get_text() for text in figure.texts] == NAMES  # below
    assert len(figure.axes[0].findobj(Rectangle)) >= 75


def test_every_name_that_people_write(tmp_path, rng):
    names = odd_names.NAMES[:40]
    boxes = np.array([[10 * (k % 8), 12 * (k // 8), 10 * (k % 8) + 9, 12 * (k // 8) + 11] for k in range(40)], float)
    figure = draw_boxes(photo(rng), boxes, np.arange(40), names, file=tmp_path / "x.png")
    assert is_plain(figure) and all(odd_names.is_clean(word) for word in words(figure))


def test_photographs_in_grey_and_without_boxes(rng, tmp_path):
    nothing = np.zeros((0, 4)), np.zeros(0, int)
    for channels in (1, 3):
        figure = draw_boxes(photo(rng, channels=channels), *nothing, NAMES, np.zeros(0), tmp_path / "x.png")
        assert not words(figure) and pixels_of(tmp_path / "x.png").shape == (492, 640, 3)


def test_every_class_has_a_colour_of_its_own():
    colors = {tuple(round(255 * part) for part in class_color(label)) for label in range(200)}
    assert len(colors) == 200
    first = np.array([class_color(label) for label in range(10)])
    apart = np.linalg.norm(first[:, None] - first, axis=-1) + 9 * np.eye(10)
    assert apart.min() > 0.3


@pytest.fixture(scope="module")
def scored():
    truths, all_found = coco_by_hand.random_set(np.random.default_rng(4), images=12)
    return truths, all_found, evaluate(truths, all_found, NAMES), match_all(truths, all_found, 3)


def test_plots_of_scores(scored, tmp_path):
    truths, all_found, scores, matches = scored
    curves = score_threshold.f1_by_threshold(matches)
    counts = count_kinds(judge(truths, all_found, 3, 0.3), 3)
    for draw, of in (
        (precision_recall, scores),
        (ap_by_class, scores),
        (f1_by_threshold, curves),
        (kinds_of_mistakes, counts),
    ):
        figure = draw(of, NAMES, tmp_path / "x.png")
        assert is_plain(figure) and pixels_of(tmp_path / "x.png").std() > 10
        for name in NAMES:
            assert any(word.startswith(name) for word in words(figure)), (draw.__name__, name)
    lines = {line.get_label(): line for line in precision_recall(scores, NAMES).axes[0].lines}
    np.testing.assert_array_equal(lines[f"$x$  {scores.by_class_50[0]:.3f}"].get_ydata(), scores.precision_50[0])
    marked = [line for line in f1_by_threshold(curves, NAMES).axes[0].lines if line.get_label().startswith("best")]
    assert [line.get_xdata().tolist() + line.get_ydata().tolist() for line in marked] == [
        [curves.all.best, curves.all.best_f1]
    ]


def test_plots_of_many_classes():
    """Of 103 classes, one of which is never there, the best and the worst have bars, and curves have no names."""
    names = [f"class {k}" for k in range(103)]
    truths = [truth(k, [(10, 10, 50, 50)], [k]) for k in range(102)]
    all_found = {k: found([(10, 10, 50, 50)], [0.5], [k]) for k in range(0, 102, 2)}
    scores = evaluate(truths, all_found, names)
    assert len(ap_by_class(scores, names).axes[0].get_yticks()) == 100
    assert [text for text in words(precision_recall(scores, names)) if "class" in text] == ["all 102 classes  0.500"]
    drawn = words(f1_by_threshold(score_threshold.f1_by_threshold(match_all(truths, all_found, 103)), names))
    assert "best: 0.667 at 0.25" in drawn and not any("class" in text for text in drawn)


def test_plots_where_nothing_was_found(scored, tmp_path):
    truths = scored[0]
    scores, matches = evaluate(truths, {}, NAMES), match_all(truths, {}, 3)
    ap_by_class(scores, NAMES, tmp_path / "ap.png")
    precision_recall(scores, NAMES, tmp_path / "pr.png")
    f1_by_threshold(score_threshold.f1_by_threshold(matches), NAMES, tmp_path / "f1.png")
    kinds_of_mistakes(count_kinds(judge(truths, {}, 3, 0.1), 3), NAMES, tmp_path / "kinds.png")
    assert all(pixels_of(file).std() > 10 for file in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 4


def test_truths_beside_detections(rng, tmp_path):
    truths = [
        truth(4, BOXES[:2], [0, 1], crowd=[False, True], size=(100, 130)),
        truth(9, size=(80, 60)),
    ]
    here = [found(BOXES, [0.9, 0.2, 0.7], [0, 1, 2]), found()]
    photos = [photo(rng), photo(rng, 80, 60)]
    figure = truths_beside_detections(photos, truths, here, NAMES, 0.3, tmp_path / "x.png")
    assert is_plain(figure) and len(figure.axes) == 4 and (tmp_path / "x.png").stat().st_size > 1000
    boxes = [len([p for p in axes.patches if isinstance(p, Rectangle)]) for axes in figure.axes]
    assert boxes == [2, 2, 0, 0]
    assert {"4.jpg: annotated", "9.jpg: annotated", "$x$ 0.90", "dog_$1 0.70", "found, score over 0.3"} <= set(
        words(figure)
    )
    assert not any("0.20" in word for word in words(figure))


def test_of_hundreds_of_detections_the_surest_are_drawn(rng):
    """As of a network that has hardly learned; the title says how many there are."""
    corners = rng.uniform(0, 60, (300, 2))
    scores = np.full(300, 0.02)
    scores[[7, 250]] = 0.03
    here = found(np.concatenate([corners, corners + 30], 1), scores, np.arange(300) % 3)
    nameless = dataclasses.replace(truth(4, size=(100, 130)), file_name="")
    figure = truths_beside_detections([photo(rng)], [nameless], [here], NAMES, 0.01, most=9)
    boxes = [len([p for p in axes.patches if isinstance(p, Rectangle)]) for axes in figure.axes]
    drawn = words(figure)
    assert boxes == [0, 9] and {"image 4: annotated", "found, score over 0.01: the surest 9 of 300"} <= {*drawn}
    assert sum("0.03" in word for word in drawn) == 2
    every = truths_beside_detections([photo(rng)], [nameless], [here], NAMES, 0.01)
    assert len(every.axes[1].patches) < 50


def test_mistakes_by_kind(rng, tmp_path):
    truths = [truth(4, BOXES[:2], [0, 1], size=(100, 130)), truth(9, BOXES[:1], [2], size=(100, 130)), truth(11)]
    shifted = BOXES[0] + [20, 0, 20, 0]
    all_found = {
        4: found([BOXES[0], BOXES[0], shifted, BOXES[1]], [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 2]),
        11: found([BOXES[2]], [0.5], [1]),
    }
    verdicts = judge(truths, all_found, 3, 0.1)
    chosen = worst(verdicts)
    assert {kind: len(some) for kind, some in chosen.items()} == dict(
        localisation=1, confusion=1, duplicate=1, background=1, missed=1
    )
    asked = []

    def read(number):
        asked.append(number)
        return photo(rng)

    figure = mistakes_by_kind(chosen, read, NAMES, tmp_path / "x.png")
    assert sorted(asked) == [4, 9, 11] and len(figure.axes) == 5 and (tmp_path / "x.png").stat().st_size > 1000
    drawn = "\n".join(words(figure))
    assert is_plain(figure) and all(f"{kind}: {KINDS[kind]}" in drawn for kind in chosen)
    assert "dog_$1 0.60\nis a\\nb, overlap 1.00\nimage 4" in drawn and "dog_$1\nnot found\nimage 9" in drawn
    named = words(mistakes_by_kind(chosen, read, NAMES, file_names={4: "train/" + "x" * 30 + "$4.jpg", 9: ""}))
    assert any(word.endswith("xxx$4.jpg") and "image" not in word for word in named)
    assert {word.split("\n")[-1] for word in named if "\n" in word} == {
        "\N{HORIZONTAL ELLIPSIS}" + "x" * 23 + "$4.jpg",
        "image 9",
        "image 11",
    }
    empty = mistakes_by_kind({}, read, NAMES, tmp_path / "none.png")
    assert words(empty) == ["no mistakes"]


def test_the_worst_are_the_surest_and_the_largest():
    def verdict(kind, score, side=10.0):
        return Verdict(kind, 1, np.array([0, 0, side, side]), 0, score, None, None, 0.0)

    some = [verdict("background", 0.2), verdict("background", 0.9), verdict("background", 0.5), verdict("correct", 1.0)]
    some += [verdict("missed", None, 10.0), verdict("missed", None, 30.0)]
    chosen = worst(some, each=2)
    assert [one.score for one in chosen["background"]] == [0.9, 0.5] and "correct" not in chosen
    assert [one.box[2] for one in chosen["missed"]] == [30, 10]


def test_settings_of_matplotlib_change_no_picture(rng, scored, tmp_path):
    pixels = photo(rng)

    def draw(folder):
        folder.mkdir()
        draw_boxes(pixels, BOXES, np.arange(3), NAMES, np.array([0.9, 0.8, 0.7]), folder / "boxes.png")
        precision_recall(scored[2], NAMES, folder / "pr.png")
        return {file.name: pixels_of(file) for file in folder.iterdir()}

    usual = draw(tmp_path / "usual")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        for file, image in draw(tmp_path / "set").items():
            np.testing.assert_array_equal(image, usual[file], err_msg=file)
