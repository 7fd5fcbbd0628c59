"""Tests of the configs of AW-convolution and PatchConvNet: one for each published result, with true docstrings."""

import re
import sys
from pathlib import Path

import pytest
from absl import flags

from aa_flax.analysis.ledger import touvron
from aa_flax.models import list_models
from aa_flax.models.registry import model_options
from aa_flax.training import resolve

sys.path.insert(0, str(Path(__file__).parent))
from test_configs import STORED, docstring, load

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

PRINTED = {(row.size, row.image_size): row for row in touvron.ROWS}
RESULTS = {result.config: result for result in touvron.RESULTS}


def resolved(name):
    config = resolve(load(f"experiments/{name}"))
    assert config.model.name in list_models()
    assert set(config.model.options) <= set(model_options(config.model.name))
    return config


@pytest.mark.parametrize("name", RESULTS)
def test_every_published_result_has_its_config(name):
    result, (file, _, argument) = RESULTS[name], name.partition(":")
    config = resolved(f"patchconvnet/{name}")
    size = config.model.name.removeprefix("patchconvnet_")
    text = docstring(f"experiments/patchconvnet/{file}")
    assert config.data.name == "imagenet2012" and config.data.image_size == result.image_size
    assert size.split("_")[0].upper() == result.label.split()[0].rstrip(",")
    assert size.endswith("_multi") == ("a token for each class" in result.label)
    assert bool(config.model.init_from) == bool(result.pretrained)
    printed = PRINTED[size, result.image_size]
    assert f"{STORED[config.model.name]:.3f} M" in text and "Ours: not run yet." in text and "Not said:" in text
    if result.pretrained != "ImageNet-21k":
        assert f"{result.top_1} % top-1" in text
        assert f"{printed.params} M parameters, {printed.multiply_adds} G multiply-adds at 224" in text
        return
    multiply_adds = "29.8" if argument == "b120_224" else printed.multiply_adds  # the README has 29.9 in another table
    assert re.search(rf"{argument} +{multiply_adds} +{result.top_1} %".replace(" + +", " +"), text)


@pytest.mark.parametrize("network", ["s60", "b60", "b120", "l120"])
def test_from_imagenet_21k_upwards(network):
    """Each run starts from the file to which the run before it is exported."""
    runs = [resolved(f"patchconvnet/imagenet21k.py:{network}{size}") for size in ("", "_224", "_384", "_512")]
    assert [run.data.name for run in runs] == ["image_folder/imagenet21k"] + 3 * ["imagenet2012"]
    assert [run.data.image_size for run in runs] == [224, 224, 384, 512]
    assert [run.model.init_from.removeprefix(f"runs/patchconvnet/{network}_") for run in runs] == [
        "",
        "21k.safetensors",
        "224.safetensors",
        "384.safetensors",
    ]
    assert len({run.label for run in runs}) == 4


@pytest.mark.parametrize(("depth", "added"), [(50, "161,432"), (101, "305,592")])
def test_aw_resnets(depth, added):
    file = f"aw/aw_resnet{depth}.py"
    assert resolved(file).model.name == f"aw_resnet{depth}"
    assert resolved(f"{file}:plain").model.name == f"resnet{depth}"
    text = docstring(f"experiments/{file}")
    assert f"{STORED[f'aw_resnet{depth}']:.3f} M parameters, {added} more than ResNet-{depth}" in text


@pytest.mark.parametrize("module", ["se", "ge", "bam", "cbam", "gala", "aa"])
@pytest.mark.parametrize("depth", [50, 101])
def test_aw_beside_another_module(module, depth):
    for network in (f"aw_{module}_resnet{depth}", f"{module}_resnet{depth}"):
        config = resolved(f"aw/combined.py:{network}")
        assert config.model.name == config.label == network


@pytest.mark.parametrize("file", ["aw_resnet50", "aw_resnet101", "combined"])
def test_the_reconstruction_is_called_one_and_quotes_the_abstract_alone(file):
    text = docstring(f"experiments/aw/{file}.py")
    assert "a reconstruction" in text.partition("python -m")[0] and "not found" in text
    assert set(re.findall(r"[\d.]+ %", text)) <= {"1.00 %", "0.57 %"}


UNKNOWN = {
    "aw/aw_resnet50.py": "se",
    "aw/combined.py": "aw_resnet50",
    "patchconvnet/s60_multi.py": "fine",
    "patchconvnet/imagenet21k.py": "s60_256",
}


@pytest.mark.parametrize(("name", "argument"), UNKNOWN.items())
def test_an_unknown_argument_is_told_what_is_known(name, argument):
    mistake = rf"{name.rpartition('/')[2]} knows .* not '{argument}'"
    with pytest.raises(flags.IllegalFlagValueError, match=mistake):
        load(f"experiments/{name}:{argument}")
