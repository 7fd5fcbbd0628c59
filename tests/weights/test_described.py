"""Tests of what stands beside weights about the network that they are of, timm's config.json above all."""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import WeightsError, init_from_plain, load_torch_state_dict, read_state_dict
from aa_flax.weights.described import _SAME, check_description
from aa_flax.weights.tables import _FAMILIES

from .torch_written import write

# As timm writes it for models on a hub.
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 7,
    "num_features": 512,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "first_conv": "conv1",
    },
}
# Their names and shapes are those of a plain network of timm, which computes something else.
IMPOSTORS = ["resnetblur18", "resnetaa50", "resnetblur50", "resnetaa50.a1h_in1k", "resnet18d", "legacy_resnet18", "x"]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a file of weights."""
    safetensors.numpy.save_file({"conv1.weight": np.ones((64, 3, 7, 7), np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def resnet():
    return nnx.eval_shape(lambda: create_model("resnet18", blocks=(1, 1, 1, 1), num_classes=7, rngs=nnx.Rngs(0)))


def described_as(folder, **changes):
    """Return what is said of the weights beside timm's config with some entries changed."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return read_state_dict(folder / "model.safetensors").description


def test_the_config_of_the_same_network_is_noted(folder, small):
    model, state = small
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architecture": "semnasnet_100"}))
    for function in (load_torch_state_dict, init_from_plain):
        (note,) = function(model, read_state_dict(folder / "model.safetensors"), source="timm").notes
        assert note.startswith(f"{folder / 'config.json'}: semnasnet_100, trained on images of 3×224×224, mean [0.485")
        assert note.endswith("bicubic, crop 0.95")


@pytest.mark.parametrize("function", [load_torch_state_dict, init_from_plain])
def test_weights_of_another_network_change_nothing(folder, small, function):
    model, state = small
    before = np.asarray(model.stem.kernel[...])
    safetensors.numpy.save_file({key: value + 1 for key, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architecture": "mobilenetv3_rw"}))
    state = read_state_dict(folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"config.json: the weights are of 'mobilenetv3_rw', which may have the names"
    ):
        function(model, state, source="timm")
    np.testing.assert_array_equal(model.stem.kernel[...], before)
    function(model, dict(state), source="timm")  # the way out that the error names
    assert (np.asarray(model.stem.kernel[...]) != before).all()
    init_from_plain(model, small[1], source="timm")


@pytest.mark.parametrize("name", ["resnet34", "tv_resnet34", "gluon_resnet18_v1b", "seresnet50", "resnet50.a1_in1k"])
def test_names_of_the_same_networks(folder, resnet, name):
    assert check_description(resnet, described_as(folder, architecture=name), "timm")


@pytest.mark.parametrize("name", IMPOSTORS)
def test_another_network_with_the_same_names_is_refused(folder, resnet, name):
    said = described_as(folder, architecture=name)
    for source in ("timm", "torchvision"):
        with pytest.raises(
            WeightsError, match=rf"config.json: the weights are of '{name.partition('.')[0]}', which may"
        ):
            check_description(resnet, said, source)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"global_pool": "catavgmax"}, "global_pool"),
        ({"model_args": {"act_layer": "silu", "drop_rate": 0.1}}, "act_layer"),
        ({"model_args": {"output_stride": 8}}, "output_stride"),
        ({"model_args": {"aa_layer": "blur"}}, "aa_layer"),
    ],
)
def test_arguments_that_change_what_is_computed(folder, resnet, changes, named):
    with pytest.raises(
        WeightsError, match=f"config.json: resnet18 was built with {{'{named}': .*which this library has not"
    ):
        check_description(resnet, described_as(folder, **changes), "timm")


def test_arguments_that_change_nothing(folder, resnet):
    arguments = {"num_classes": 7, "in_chans": 3, "drop_path_rate": 0.1}
    assert check_description(resnet, described_as(folder, model_args=arguments, global_pool="fast"), "timm")
    headless = nnx.eval_shape(lambda: create_model("resnet18", num_classes=0, rngs=nnx.Rngs(0)))
    assert check_description(headless, described_as(folder, global_pool="max"), "timm")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 9999,
        b'{"architecture": 3}',
        b'{"architectures": ["ResNet"]}',
    ],
)
def test_a_config_of_another_program_says_nothing(folder, content):
    (folder / "config.json").write_bytes(content)
    assert read_state_dict(folder / "model.safetensors").description is None


def test_nonsense_in_the_config_is_no_traceback(folder, resnet):
    for changes in ({"pretrained_cfg": 3}, {"model_args": "x"}, {"pretrained_cfg": {"input_size": {}, "mean": [None]}}):
        assert check_description(resnet, described_as(folder, **changes), "timm")


def test_a_checkpoint_names_its_network(tmp_path, resnet):
    for arch in ("resnet18", "resnetblur18"):
        write({"epoch": 3, "arch": arch, "state_dict": {"conv1.weight": np.ones(2)}}, tmp_path / "w.pth.tar")
        said = read_state_dict(tmp_path / "w.pth.tar").description
        if arch == "resnet18":
            (note,) = check_description(resnet, said, "torchvision")
            assert note == f"entry 'arch' of {tmp_path / 'w.pth.tar'}: resnet18"
        else:
            with pytest.raises(WeightsError, match=r"entry 'arch' of .*w.pth.tar: the weights are of 'resnetblur18'"):
                check_description(resnet, said, "torchvision")


def test_other_families(folder, resnet, small):
    said = described_as(folder, architecture="semnasnet_100")
    assert check_description(small[0], said, "timm")
    with pytest.raises(WeightsError, match="are of 'semnasnet_100', which may have the names and shapes of a ResNet"):
        check_description(resnet, said, "timm")
    assert check_description(resnet, said, "aa_flax") == ()


def test_every_family_that_others_have_says_which_of_theirs_are_the_same():
    assert {kind for kind, family in _FAMILIES.items() if {"timm", "torchvision"} & {*family.sources}} == {*_SAME}
