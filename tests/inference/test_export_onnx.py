"""Tests of `aa-flax export` to ONNX, run by onnxruntime; tests/onnx.sh runs them, in an environment of its own."""

import importlib.util
import json
import sys

import pytest
from served_networks import OF_THE_PAPERS, SMALL, inputs, one_file_serves_all, run, trained

from aa_flax.inference.export import ExportError

# The shape checker knows no symbol of `jax.export`.
pytestmark = pytest.mark.usefixtures("unchecked_file")

needs_jax2onnx = pytest.mark.skipif(
    importlib.util.find_spec("jax2onnx") is None, reason="needs jax2onnx, in an environment of its own: tests/onnx.sh"
)


def usual(name):
    """Return the form of outputs of a network here, by its name."""
    kinds = {"retinanet": "candidates", "semantic_fpn": "labels", "upernet": "labels"}
    return next((form for kind, form in kinds.items() if name.startswith(kind)), "logits")


def test_without_jax2onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    predictor = trained(*SMALL["aa_wide"])
    with pytest.raises(ExportError, match=r"needs jax2onnx and onnxruntime .*pip install 'aa_flax\[onnx\]'") as error:
        predictor.export(tmp_path / "wide.onnx")
    assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]


@needs_jax2onnx
@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in SMALL if "rcnn" not in name])
def test_one_file_serves_all_batches(name, tmp_path):
    import onnx

    file = tmp_path / "network.onnx"
    card = one_file_serves_all(trained(*SMALL[name]), file, usual(name))
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert [each.name for each in model.graph.input][: len(card["inputs"])] == [each["name"] for each in card["inputs"]]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param and card["platforms"] == []
    inside = json.loads({each.key: each.value for each in model.metadata_props}["aa_flax"])
    assert inside["names"] == card["names"] and inside["inputs"] == card["inputs"]
    assert card["versions"]["jax2onnx"]


@needs_jax2onnx
@pytest.mark.thorough
def test_normalised_images_fixed_batch_and_16_bits(tmp_path):
    wide = trained(*SMALL["aa_wide"])
    one_file_serves_all(wide, tmp_path / "a.onnx", "probabilities", preprocessing=False)
    card = wide.export(tmp_path / "b.onnx", batch=2)
    assert card["compared"][0]["platform"] == "onnxruntime" and card["compared"][0]["differences"]["logits"] < 1e-5
    (images,) = inputs(card, 2)
    assert card["inputs"][0]["shape"] == [2, 8, 12, 3] and run(tmp_path / "b.onnx")(images)["logits"].shape == (2, 5)


@needs_jax2onnx
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "form", "words"),
    [
        ("retinanet", "detections", "one of candidates for this network, got 'detections'; detections needs loops"),
        ("faster_rcnn", "", "takes loops, which a program of this format has not; stablehlo has"),
    ],
)
def test_what_onnx_has_not(name, form, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        trained(*SMALL[name]).export(tmp_path / "file.onnx", outputs=form)


@needs_jax2onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_PAPERS)
def test_networks_of_the_papers(name, tmp_path):
    one_file_serves_all(trained(*OF_THE_PAPERS[name]), tmp_path / "file.onnx", usual(name))
