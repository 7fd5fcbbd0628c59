"""Tests of recognising whose weights a PyTorch file has."""

from types import SimpleNamespace

import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import WeightsError
from aa_flax.weights.arrays import flat_arrays
from aa_flax.weights.recognized import recognize
from aa_flax.weights.rows import counterpart
from aa_flax.weights.tables import table_of

RCNN = dict(num_classes=4)


def named(name, source, **options):
    """Return the names of a network's arrays in PyTorch, each with its shape alone."""
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **options))
    found = {}
    for path, array in flat_arrays(model).items():
        place = counterpart(table_of(model, source), path, array.shape)
        if len(place.keys) == 1:
            found[place.keys[0]] = SimpleNamespace(shape=place.shape(array.shape))
        else:
            found |= {key: SimpleNamespace(shape=()) for key in place.keys}
    return found


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "source", "options"),
    [
        ("resnet18", "torchvision", {}),
        ("mask_rcnn_resnet50", "torchvision", RCNN),
        ("patchconvnet_s60_multi", "deit", {}),
        ("resnet34", "torchvision", {}),
        ("resnet50", "torchvision", {}),
        ("resnet101", "torchvision", {}),
        ("se_resnet50", "timm", {}),
        ("mnasnet_075", "timm", {}),
        ("mnasnet_140", "timm", {}),
        ("patchconvnet_s120", "deit", {}),
        ("patchconvnet_b60", "deit", {}),
        ("faster_rcnn_resnet18", "torchvision", RCNN),
        ("retinanet_resnet50", "torchvision", dict(flavor="torchvision", **RCNN)),
    ],
)
def test_each_network_of_pytorch_is_recognised(name, source, options):
    keys = named(name, source, **options)
    assert recognize(keys) == (name, source)
    assert recognize({f"module.{key}": value for key, value in keys.items()}).name == name


def test_others_are_refused_in_a_line():
    unknown = {"layer1.0.conv1.weight": None, "layer2.0.conv1.weight": None}  # a ResNet of two stages
    for keys in (unknown, {"encoder.weight": None}, {}):
        with pytest.raises(WeightsError, match="x.pth: of no network that is known here, by their names, which begin"):
            recognize(keys, "x.pth")
