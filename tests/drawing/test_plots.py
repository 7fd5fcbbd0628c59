import matplotlib
import numpy as np
import pytest
from PIL import Image

from aa_flax.drawing.plots import confusion_matrix, learning_curves
from aa_flax.drawing.pooling_figures import captioned_figure
from aa_flax.drawing.query_attention import attention_figure


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_learning_curves_draw_both_splits(tmp_path):
    rows = [{"split": "train", "epoch": e, "loss": 1 / e, "accuracy": 1 - 1 / e} for e in (0.5, 1, 1.5, 2)]
    learning_curves(rows, tmp_path / "one.png")
    learning_curves([*rows, {"split": "eval", "epoch": 2, "loss": 0.7, "accuracy": 0.4}], tmp_path / "two.png")
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    red = lambda image: ((image[..., 0] > 150) & (image[..., 1] < 90)).sum()  # noqa: E731
    assert red(two) > red(one) + 20  # the held-out marker


def test_scores_of_the_last_step_lie_beside_those_of_averaged_weights():
    row = {"split": "eval", "epoch": 2, "loss": 0.7, "raw_loss": 0.6, "accuracy": 0.4, "raw_accuracy": 0.5}
    figure = learning_curves([row, {"split": "train", "epoch": 2, "loss": 0.9}])
    assert figure.axes[0].get_xlim()[0] == 0 and figure.axes[0].lines[0].get_marker() == "o"  # one point alone is seen
    lines = {
        axes.get_title("left"): {line.get_label(): line.get_ydata()[0] for line in axes.lines} for axes in figure.axes
    }
    assert lines == {
        "loss": {"training": 0.9, "held out": 0.7, "held out, last step": 0.6},
        "accuracy": {"held out": 0.4, "held out, last step": 0.5},
    }


def test_losses_of_training_alone_have_panels_and_scores_without_value_have_none():
    train = {"split": "train", "epoch": 1, "loss": 0.9, "mask_loss": 0.5, "grad_norm": 3.0}
    held_out = {"split": "eval", "epoch": 1, "loss": 0.7, "AP": 0.4, "AP_large": None, "AR_large": float("nan")}
    titles = [axes.get_title("left") for axes in learning_curves([train, held_out]).axes]
    assert titles == ["loss", "mask loss", "AP"]


def test_confusion_matrix_of_few_and_of_many_classes(tmp_path):
    for k in (3, 40):
        confusion_matrix(np.eye(k, dtype=int) * 5, [f"class {i}" for i in range(k)], tmp_path / f"{k}.png")
        assert pixels(tmp_path / f"{k}.png").std() > 10


def test_names_between_dollars_are_no_mathematics(tmp_path):
    names = [r"$\foo$", "[red]", "a_b^c", "$x$"]
    figure = confusion_matrix(np.eye(4, dtype=int), names, tmp_path / "names.png")
    assert (tmp_path / "names.png").stat().st_size > 1000
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


@pytest.mark.few
@pytest.mark.parametrize(
    ("name", "value"),
    [("text.usetex", True), ("image.cmap", "none of them"), ("savefig.bbox", "tight"), ("axes.facecolor", "red")],
)
def test_the_users_settings_of_matplotlib_change_no_picture(tmp_path, name, value):
    rows = [{"split": "eval", "epoch": 1, "loss": 0.5, "ex_act": 0.25}]
    names, photos, maps = ["a_b", "$c", "d%"], np.zeros((1, 6, 8, 3), np.uint8), np.full((1, 1, 3, 4), 1 / 12)

    def draw(folder):
        folder.mkdir()
        learning_curves(rows, folder / "curves.png")
        confusion_matrix(np.eye(3, dtype=int), names, folder / "confusion.png")
        attention_figure(photos, ["a_b"], {"stage.conv": maps[:, :, None]}, [(2, 3)], folder / "attention.png")
        captioned_figure(photos, maps, [[(0, "a_b")]], file=folder / "pooling.png")
        return {file.name: pixels(file) for file in folder.iterdir()}

    usual = draw(tmp_path / "usual")
    with matplotlib.rc_context({name: value}):
        for file, image in draw(tmp_path / "set").items():
            np.testing.assert_array_equal(image, usual[file], err_msg=file)
        assert matplotlib.rcParams[name] == value
