"""Tests of `aa-flax export` and `predictor.export`: StableHLO."""

import hashlib
import json

import jax
import numpy as np
import pytest
from absl import flags
from served_networks import (
    ASKED,
    OF_THE_PAPERS,
    SMALL,
    close,
    compiled,
    inputs,
    one_file_serves_all,
    outputs,
    run,
    trained,
)

from aa_flax import export as command
from aa_flax.inference.export import ExportError, comparison, exporting, stablehlo
from aa_flax.inference.export.differences import differences
from aa_flax.inference.export.served import Served
from aa_flax.ops.platform import target_platform, traced_for
from aa_flax.runs.directory import RunDirectory, RunDirectoryError

# The shape checker knows no symbol of `jax.export`.
pytestmark = pytest.mark.usefixtures("unchecked_file")

PHOTO = np.random.default_rng(11).integers(0, 256, (17, 23, 3), np.uint8)


@pytest.fixture(scope="module")
def wide():
    return trained(*SMALL["aa_wide"])


@pytest.fixture(scope="module")
def exported(wide, tmp_path_factory):
    """Return a file, its card and the lines that were said."""
    file, lines = tmp_path_factory.mktemp("export") / "wide.stablehlo", []
    card = wide.export(file, platforms=["cpu"], say=lines.append)
    return file, card, lines


def test_one_file_serves_a_batch_of_one_and_of_five(wide, exported):
    file, card, _ = exported
    (images,) = inputs(card, 5)
    expected, program = outputs(wide, ASKED["logits"])(images), run(file)
    for number in (1, 5):
        close(program(images[:number]), {"logits": expected["logits"][:number]})


def test_the_card_says_what_a_program_needs(wide, exported):
    file, card, lines = exported
    assert json.loads((file.parent / "wide.stablehlo.json").read_text()) == json.loads(json.dumps(card))
    assert card["names"] == [f"class {number}" for number in range(5)] and card["platforms"] == ["cpu"]
    assert card["preprocessing"]["included"] and card["preprocessing"]["image_size"] == [8, 12]
    assert tuple(card["preprocessing"]["mean"]) == (0.4, 0.5, 0.6)
    assert card["inputs"] == [
        {"name": "images", "shape": ["b", 8, 12, 3], "dtype": "uint8", "meaning": "pixels, 0 to 255"}
    ]
    assert card["outputs"] == [{"name": "logits", "shape": ["b", 5], "dtype": "float32"}]
    assert card["versions"]["jax"] == jax.__version__ and card["commit"]
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    (compared,) = card["compared"]
    assert compared["run"] and tuple(compared["images"]) == (1, 5) and 0 <= compared["differences"]["logits"] <= 1e-5
    assert lines[1] == f"cpu: output is the network's, to {compared['differences']['logits']:.1e} in batches of 1, 5"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aa_wide", "scan["),
        pytest.param("patchconvnet", "feature_group_count=32", marks=pytest.mark.thorough),
    ],
)
def test_a_program_has_the_form_of_its_platform_and_not_of_the_tracing_machine(name, words):
    """One form is traced after the other, so that JAX's caches would give the first one again."""
    predictor = trained(*SMALL[name])
    served = Served(predictor.model, predictor.task, predictor.preprocessing, predictor.image_size)

    def has(platform):
        return words in str(
            jax.make_jaxpr(stablehlo.form_for(served, platform))(served.variables, *served.shapes(None))
        )

    # On CPUs attention of a free batch is a loop over images, and depthwise convolutions are sums.
    on_cpu = name == "aa_wide"
    assert [has(platform) for platform in ("cpu", "tpu", "cuda", "cpu")] == [on_cpu, not on_cpu, not on_cpu, on_cpu]


def test_jax_keeps_apart_what_was_traced_for_different_platforms():
    @jax.jit
    def power(x):
        return x * x if target_platform() == "tpu" else x

    for _ in range(2):
        assert "mul" not in str(jax.make_jaxpr(power)(1.0))
        with traced_for("tpu"):
            assert "mul" in str(jax.make_jaxpr(power)(1.0))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"platforms": ["cpu", "vulkan"]}, "platforms must be some of cpu, cuda, tpu, got 'vulkan'"),
        ({"format": "torchscript"}, "format must be one of stablehlo, onnx, got 'torchscript'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, got 'int8'"),
        ({"outputs": "boxes"}, "outputs must be one of logits, probabilities for this network, got 'boxes'"),
        ({"batch": 0}, "batch must be a number of images, at least 1, got 0"),
        ({"batch": 2.5}, "batch must be a number of images, at least 1, got 2.5"),
        ({"batch": "8"}, "batch must be a number of images, at least 1, got '8'"),
        ({"platforms": "cpu"}, r"platforms must be a list of names, such as \['cpu'\], got a string"),
        ({"kernels": True, "platforms": ["cuda"], "batch": 8}, "kernels need platforms=tpu"),
        ({"kernels": True, "platforms": ["tpu"]}, "kernels need platforms=tpu, .* and a batch"),
        ({"format": "onnx", "platforms": ["cpu"]}, "platforms and kernels are for stablehlo"),
    ],
)
def test_what_cannot_be_wanted(wide, tmp_path, wanted, words):
    with pytest.raises(ExportError, match=words):
        wide.export(tmp_path / "file", **wanted)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(ExportError, match="expected the name of a file"):
        wide.export("")


def test_files_that_cannot_be_written(wide, tmp_path, exported):
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "m.stablehlo.json").write_text("{}")
    for name, words in (
        ("thesis", "there is a file that no export wrote"),
        ("m.stablehlo", "there is a file that no export wrote"),
        (".", "is a folder"),
        ("thesis/m.stablehlo", "its folder cannot be made"),
        ("m.onnx", "the name of an ONNX model, and format is 'stablehlo'"),
    ):
        with pytest.raises(ExportError, match=words):
            wide.export(tmp_path / name, format="stablehlo", platforms=["cpu"])
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert (tmp_path / "m.stablehlo.json").read_text() == "{}"


def test_nothing_is_written_that_differs_from_the_network(wide, tmp_path, monkeypatch):
    def off(content):
        program = stablehlo.from_stablehlo(content)
        return lambda *arrays: {name: each * (1 + 2e-5) for name, each in program(*arrays).items()}

    monkeypatch.setattr(comparison, "from_stablehlo", off)
    monkeypatch.setattr(exporting, "BATCHES", (1,))
    with pytest.raises(ExportError, match=r"not written: cpu: output is not the network's, to 2.0e-05 in batches of 1"):
        wide.export(tmp_path / "wide.stablehlo", platforms=["cpu"])
    assert not [*tmp_path.iterdir()]


def test_a_free_batch_that_a_network_cannot_have(tmp_path):
    name, size, classes, resize, options = SMALL["aa_wide"]
    fixed = trained(name, size, classes, resize, {**options, "implementation": "pallas_tpu_interpret"})
    with pytest.raises(ExportError, match="with a free batch; a fixed one may do, batch=NUMBER .*got the symbol b"):
        fixed.export(tmp_path / "f.stablehlo", platforms=["tpu"])


def test_differences_of_arrays():
    ours = {"a": np.asarray([[1.0, -4.0]]), "b": np.asarray([[1, 2, 3, 4]])}
    theirs = {"a": np.asarray([[1.0, -4.1]]), "b": np.asarray([[1, 2, 3, 5]])}
    found = differences(ours, theirs)
    assert found == {"a": pytest.approx(0.025), "b": 0.25}
    assert np.isnan(differences({"a": np.ones(2)}, {"a": np.asarray([1, np.nan])})["a"])
    assert differences({"a": np.ones((2, 1))}, {"a": np.ones((2, 2))}) == {"shapes": np.inf}
    assert differences({"a": np.zeros(3)}, {"a": np.zeros(3)}) == {"a": 0.0}


def test_differences_of_objects_are_those_of_the_nearest():
    ours = {
        "boxes": np.asarray([[[0, 0, 4, 8], [1, 1, 3, 3], [0, 0, 0, 0]]], np.float32),
        "scores": np.asarray([[0.5, 0.5, 0]], np.float32),
        "classes": np.asarray([[2, 1, -1]]),
        "valid": np.asarray([[True, True, False]]),
    }
    swapped = {name: each[:, [1, 0, 2]] for name, each in ours.items()}
    assert differences(ours, swapped) == {"objects": 0.0}
    moved = {**swapped, "boxes": swapped["boxes"] + np.asarray([0, 0, 0, 0.08], np.float32)}
    assert differences(ours, moved)["objects"] == pytest.approx(0.01, rel=1e-4)
    for name, other in (("classes", [[2, 2, -1]]), ("valid", [[True, False, False]])):
        assert differences(ours, {**ours, name: np.asarray(other)})["objects"] == np.inf


def called(*words):
    """Call the command with these words and return its exit status."""
    values = flags.FlagValues()
    command.define(values)
    return command.main(values(["export", *words]), values)


def test_the_command(wide, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "on_platforms", lambda *_: [])
    weights, file = tmp_path / "w.safetensors", tmp_path / "made" / "w.stablehlo"
    wide.save(weights)
    assert called(f"--workdir={weights}", f"--output={file}", "--platforms=cpu") is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  StableHLO for cpu, 0.") and lines[-1] == str(file)
    assert lines[-3:-1] == ["  inputs: images uint8 [b, 8, 12, 3]", "  outputs: logits float32 [b, 5]"]
    (images,) = inputs(exported[1], 1)
    close(run(file)(images), run(exported[0])(images))


def test_a_run_without_weights(wide, tmp_path):
    RunDirectory(tmp_path).begin(wide.about.config, wide.preprocessing)
    with pytest.raises(RunDirectoryError, match="has no checkpoint yet"):
        called(f"--workdir={tmp_path}", f"--output={tmp_path / 'x.stablehlo'}")


@pytest.mark.thorough
def test_one_program_for_several_platforms_has_the_weights_once(wide, exported, tmp_path):
    lines, file = [], tmp_path / "wide.stablehlo"
    card = wide.export(file, say=lines.append)
    assert (
        card["platforms"]
        == ["cpu", "cuda", "tpu"]
        == list(jax.export.deserialize(bytearray(file.read_bytes())).platforms)
    )
    assert card["bytes"] - exported[1]["bytes"] < 200_000 < exported[1]["bytes"]
    assert [(each["platform"], each["run"]) for each in card["compared"]] == [
        ("cpu", True),
        ("cuda", False),
        ("tpu", False),
    ]
    assert (
        "tpu: not run, as there is none here; the form for it, computed on this CPU: output is the network's"
        in lines[-1]
    )
    (images,) = inputs(card, 2)
    close(run(file)(images), run(exported[0])(images))


@pytest.mark.thorough
def test_kernels_of_tpus(tmp_path):
    lines, file = [], tmp_path / "f.stablehlo"
    wanted = dict(platforms=["tpu"], batch=8, kernels=True, say=lines.append)
    card = trained(*SMALL["aa_resnet"]).export(file, **wanted)
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    assert "tpu_custom_call" in program.mlir_module() and program.in_avals[0].shape == (8, 32, 48, 3)
    assert lines[-1] == "tpu: not run, as there is none here; its values were compared with nothing"
    assert card["inputs"][0]["shape"] == [8, 32, 48, 3] and "differences" in card["compared"][0]


IN_SLOW = [pytest.param(name, "detections", marks=pytest.mark.slow) for name in ("faster_rcnn", "mask_rcnn")]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "form"),
    [("retinanet", "detections"), ("retinanet", "candidates"), ("semantic_fpn", "labels"), *IN_SLOW],
)
def test_objects_and_segments(name, form, tmp_path):
    card = one_file_serves_all(trained(*SMALL[name]), tmp_path / "file", form, (1, 3), platforms=["cpu"])
    takes_sizes = SMALL[name][3] == "fit"
    assert [each["name"] for each in card["inputs"]] == ["images", *(["sizes"] if takes_sizes else [])]


@pytest.mark.slow
def test_candidates_are_what_suppression_chooses_from(tmp_path):
    """The boxes and scores of detections are among the candidates, by the columns that the names have."""
    predictor = trained(*SMALL["faster_rcnn"])
    card = predictor.export(tmp_path / "file", platforms=["cpu"], outputs="candidates")
    images, sizes = inputs(card, 2)
    found = compiled(run(tmp_path / "file"), (images, sizes))(images, sizes)
    assert found["boxes"].shape == (2, 40, 2, 4) and found["scores"].shape == (2, 40, 2)
    kept = outputs(predictor, ASKED["detections"])(images, sizes)
    for image in range(2):
        for place in np.flatnonzero(kept["valid"][image]):
            label, score = kept["classes"][image, place], kept["scores"][image, place]
            near = np.abs(found["scores"][image, :, label] - score).argmin()
            np.testing.assert_allclose(found["scores"][image, near, label], score, rtol=1e-4)
            np.testing.assert_allclose(found["boxes"][image, near, label], kept["boxes"][image, place], atol=1e-2)
    assert kept["valid"].any()


@pytest.mark.thorough
def test_normalised_images_another_size_and_another_dtype(wide, tmp_path):
    card = one_file_serves_all(
        wide.at((12, 8)), tmp_path / "a", "probabilities", (1, 2), platforms=["cpu"], preprocessing=False
    )
    assert card["inputs"][0]["dtype"] == "float32" and card["inputs"][0]["shape"] == ["b", 12, 8, 3]
    assert not card["preprocessing"]["included"]
    card = wide.export(tmp_path / "b", platforms=["cpu"], dtype="bfloat16", batch=2, photos=[PHOTO, PHOTO[::-1], PHOTO])
    (images,) = inputs(card, 2)
    found, exact = run(tmp_path / "b")(images)["logits"], outputs(wide, ASKED["logits"])(images)["logits"]
    assert card["dtype"] == "bfloat16" and found.dtype == np.float32 and card["compared"][0]["images"] == (2,)
    assert 1e-4 < np.abs(found - exact).max() / np.abs(exact).max() < 4e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_PAPERS)
def test_networks_of_the_papers(name, tmp_path):
    form = "candidates" if name.startswith("retinanet") else "logits"
    one_file_serves_all(trained(*OF_THE_PAPERS[name]), tmp_path / "file", form, platforms=["cpu"])
