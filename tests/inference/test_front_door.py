"""Tests of `aa_flax.load` with a tiny classifier: from all places, for all kinds of photographs."""

import jax
import numpy as np
import pytest
from PIL import Image

import aa_flax
from aa_flax import weights
from aa_flax.data.photo import PhotoError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.metrics import read_metrics
from aa_flax.weights import WeightsError


@pytest.fixture(scope="module")
def classify(straight):
    return aa_flax.load(str(straight))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Return a colour photograph, the network is for grey ones, of other sides than its input."""
    file = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 31, 3), np.uint8)).save(file)
    return file


def test_a_file_is_classified(classify, photo, straight):
    said = classify(photo)
    assert type(said).__name__ == "Classification"
    names = RunDirectory(straight).read_preprocessing().class_names
    assert said.probabilities.shape == (10,) and said.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert said.name == names[said.label] == said.top(1)[0][0]
    assert said.probability == said.probabilities.max() == said.top()[0][1]
    with pytest.raises(ValueError, match="count must be at least 1, got -1"):
        said.top(-1)
    assert [name for name, _ in said.top(3)] == [names[k] for k in np.argsort(-said.probabilities)[:3]]
    assert str(said).splitlines() == [f"  {100 * p:6.2f} %  {name}" for name, p in said.top(5)]
    assert len(str(classify(photo, top=2)).splitlines()) == 2
    np.testing.assert_array_equal(said.photo, np.asarray(Image.open(photo).convert("L"))[..., None])


def test_all_kinds_of_photographs_say_the_same(classify, photo):
    pixels = np.asarray(Image.open(photo))
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    given = [str(photo), photo, Image.open(photo), Image.fromarray(pixels), pixels, opaque]
    for said in classify(given):
        np.testing.assert_array_equal(said.probabilities, classify(photo).probabilities)
    grey = np.asarray(Image.open(photo).convert("L"))
    for said in classify((grey, grey[..., None], np.dstack([grey, np.full_like(grey, 255)]))):
        np.testing.assert_array_equal(said.probabilities, classify(photo).probabilities)
    assert classify([]) == []


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("none.png", PhotoError, "none.png: no such file"),
        (np.zeros((4, 5)), PhotoError, "pixels must be uint8, 0 to 255, got float64 .4, 5."),
        (np.zeros((2, 4, 5, 3), np.uint8), PhotoError, "list.images. gives 2 photographs"),
        (np.zeros((3, 4, 5), np.uint8), PhotoError, "1 to 4 channels, got .3, 4, 5."),
        (np.zeros((0, 5), np.uint8), PhotoError, "1 to 4 channels, got .0, 5."),
        (Image.fromarray(np.zeros((4, 5), np.float32)), PhotoError, "floating-point pixels"),
        (Image.fromarray(np.full((4, 5), 1 << 20, np.int32)), PhotoError, "more than 16 bits"),
        (5, TypeError, "the name of a file, pixels .*, got int"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_what_is_no_photograph(classify, given, error, words):
    with pytest.raises(error, match=words):
        classify(given)


def test_options_are_those_of_the_command(classify, photo):
    with pytest.raises(TypeError, match="no option 'threshold'; options of classification: top"):
        classify(photo, threshold=0.5)
    with pytest.raises(ValueError, match="'top' must be at least 1, got 0"):
        classify(photo, top=0)


def test_it_draws_itself(classify, photo, tmp_path):
    said = classify(photo)
    picture = said.draw(tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == picture.size and picture.width > 400
    said.draw(tmp_path / "drawn.jpg")
    assert (tmp_path / "drawn.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert said._repr_png_()[:4] == b"\x89PNG"
    shown = said._repr_html_()
    assert 'src="data:image/png;base64,' in shown and f"{said.name}" in shown
    assert repr(said).startswith("<Classification: ")


def test_its_input(classify, photo):
    images, before = classify.preprocess([photo, photo]), classify.preprocessing
    assert images.shape == (2, 8, 8, 1) and images.dtype == np.float32
    shown = np.asarray(Image.open(photo).convert("L").resize((8, 8), Image.Resampling.BILINEAR), np.float64)
    np.testing.assert_allclose(images[0, ..., 0], (shown / 255 - before.mean[0]) / before.std[0], atol=1e-5)
    assert repr(classify).startswith("<Predictor: classification by wide_resnet28_10, 8x8, 10 names: ")


@pytest.mark.thorough
def test_the_network_within(classify, photo):
    apply, *variables = aa_flax.training.functional(classify.model)
    logits = np.asarray(jax.jit(apply)(*variables, classify.preprocess(photo))[0], np.float64)[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(classify(photo).probabilities, probabilities, rtol=1e-4)
    features = classify.features(photo)
    assert {*features} == {*classify.model.feature_info} and features["stage3"].shape[0] == 1
    assert classify.attention_maps(photo) == {}
    larger = classify.at((16, 12))
    assert larger.preprocess(photo).shape == (1, 16, 12, 1) and larger(photo).probabilities.shape == (10,)


@pytest.mark.thorough
def test_another_checkpoint_has_its_own_scores(straight):
    """A run that was not finished has no result, but each checkpoint has the scores that were logged for it."""
    rows = [row for row in read_metrics(straight / "metrics.jsonl") if row["split"] == "eval"]
    for checkpoint, row in ((4, rows[0]), (8, rows[1]), ("best", max(rows, key=lambda row: row["accuracy"]))):
        found = aa_flax.load(straight, checkpoint=checkpoint)
        assert found.step == row["step"]
        assert {name: found.about.result[name] for name in ("accuracy", "loss")} == {
            name: row[name] for name in ("accuracy", "loss")
        }
    assert aa_flax.load(straight).about.result == {}


@pytest.mark.thorough
def test_imported_weights_say_what_they_need(classify, photo, tmp_path, straight):
    file = tmp_path / "w.safetensors"
    weights.save(classify.model, file)
    with pytest.raises(
        WeightsError,
        match=r"missing: names, mean, std, resize, interpolation. Give them .* names=\[10 names of classes\], mean=",
    ):
        aa_flax.load(file)
    before = classify.preprocessing
    said = dict(names=before.class_names, mean=before.mean, std=before.std, interpolation="bilinear")
    with pytest.raises(WeightsError, match="missing: crop_fraction"):
        aa_flax.load(file, **said, resize="center_crop")
    with pytest.raises(WeightsError, match="for each of 1 channels"):
        aa_flax.load(file, **{**said, "mean": (0.5, 0.5, 0.5)}, resize="squash")
    with pytest.raises(WeightsError, match=r"std must be above 0, got \(0.0,\)"):
        aa_flax.load(file, **{**said, "std": (0.0,)}, resize="squash")
    with pytest.raises(WeightsError, match="head.bias: expected .3,., found .10,."):
        aa_flax.load(file, **{**said, "names": "abc"}, resize="squash")
    again = aa_flax.load(file, **said, resize="squash")
    np.testing.assert_array_equal(again(photo).probabilities, classify(photo).probabilities)
    with pytest.raises(WeightsError, match="a run says how its network sees photographs; leave out names"):
        aa_flax.load(straight, names=["a"])


def test_what_is_nothing_to_load(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02")
    with pytest.raises(WeightsError, match="expected a run directory, .* without running what a pickle names"):
        aa_flax.load(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no such file"):
        aa_flax.load(tmp_path / "w.safetensors")
    with pytest.raises(RunDirectoryError, match="is not a run directory: it has no config.json"):
        aa_flax.load(tmp_path)
    for place in ("nope", "resnet50", tmp_path / "model.onnx"):
        with pytest.raises(RunDirectoryError, match=r"no such file or folder; a network lies in .*hf_hub:owner/name"):
            aa_flax.load(place)
    with pytest.raises(WeightsError, match="a repository is named owner/name"):
        aa_flax.load("hf-hub:resnet50")  # as timm spells it
