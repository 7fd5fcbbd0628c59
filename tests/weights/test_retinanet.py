"""Tests of torchvision's RetinaNet: its names, its outputs and its detections, and detectors that start from others."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import (
    WeightsError,
    init_from_plain,
    load,
    load_torch_state_dict,
    save,
    to_torch_state_dict,
)
from aa_flax.weights.arrays import flat_arrays

from .conftest import _random_state_dict
from .torch_named import NumpyBackend, retinanet
from .torchvision_here import torchvision_detection

TINY = dict(width=8, blocks=(1, 1, 1, 1), fpn_width=16, head_width=12, head_depth=2, num_classes=5, image_size=(40, 72))


def detector(name="retinanet_resnet50", **options):
    return create_model(name, **{"flavor": "torchvision", **TINY, **options}, rngs=nnx.Rngs(0))


def shapes(**options):
    return nnx.eval_shape(lambda: detector(**options))


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


def older(state):
    """Return a state dict with the names that torchvision's files of 2020 have."""
    named = {}
    for key, value in state.items():
        key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key)
        key = re.sub(r"_head\.conv\.(\d)\.0\.", lambda found: f"_head.conv.{2 * int(found[1])}.", key)
        named[key] = value
    return named


@pytest.fixture(scope="module")
def given():
    """Return a tiny detector with random weights, and these by torchvision's names."""
    model = detector()
    state = _random_state_dict(np.random.default_rng(5), model, "torchvision")
    load_torch_state_dict(model, state, source="torchvision")
    return model, state


def test_names_and_outputs_are_torchvisions(rng, given):
    """Norm epsilon 0, symmetric padding, odd maps: 40×72 has 5×9, 3×5, 2×3, 1×2 and 1×1."""
    model, state = given
    assert {"backbone.body.layer1.0.downsample.1.running_var", "head.regression_head.conv.1.0.bias"} <= state.keys()
    images = rng.normal(size=(2, 40, 72, 3)).astype(np.float32)
    wide = {key: value.astype(np.float64) for key, value in state.items()}
    logits, boxes = retinanet(wide, images.transpose(0, 3, 1, 2).astype(np.float64), NumpyBackend())
    graph, values = nnx.split(model)
    found = jax.jit(lambda values, x: nnx.merge(graph, values, copy=True)(x))(values, jnp.asarray(images))
    assert found["classes"].shape == (2, 9 * (45 + 15 + 6 + 2 + 1), 5) == logits.shape
    np.testing.assert_allclose(found["classes"], logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(found["boxes"], boxes, rtol=1e-4, atol=1e-4 * np.abs(boxes).max())


@pytest.mark.thorough
def test_both_spellings_are_the_same_weights(given):
    model, state = given
    for named in (state, older(state), {f"module.{key}": value for key, value in older(state).items()}):
        other = shapes()
        report = load_torch_state_dict(other, named, source="torchvision")
        assert {*report.loaded} == {*arrays(model)}
        for path, value in arrays(model).items():
            np.testing.assert_array_equal(arrays(other)[path], value, err_msg=path)
    assert older(state).keys() != state.keys()
    assert to_torch_state_dict(model, source="torchvision").keys() == state.keys()


def test_what_does_not_fit_is_named(given):
    _, state = given
    lacking = {key: value for key, value in older(state).items() if "inner_blocks.1" not in key}
    with pytest.raises(WeightsError, match=r"2 problems:\n  backbone.fpn.inner_blocks.1.0.\w+: missing"):
        load_torch_state_dict(shapes(), lacking, source="torchvision")
    with pytest.raises(WeightsError, match=r"1 problems:\n  head.extra.weight: the network has no such array"):
        load_torch_state_dict(shapes(), {**state, "head.extra.weight": np.ones(2)}, source="torchvision")
    with pytest.raises(WeightsError, match=r"fpn.norm3.scale: torchvision has no such layer"):
        load_torch_state_dict(shapes(flavor="tpu"), state, source="torchvision")
    with pytest.raises(WeightsError, match=r"no key table for RetinaNet from 'timm'; sources: 'torchvision'"):
        load_torch_state_dict(shapes(), state, source="timm")
    sizes = dict(flavor="torchvision", width=0.25, fpn_width=16, head_width=12, head_depth=2)
    mnasnet = nnx.eval_shape(lambda: create_model("retinanet_mnasnet_100", **sizes, rngs=nnx.Rngs(0)))
    with pytest.raises(WeightsError, match=r"no key table for RetinaNet from 'torchvision'; sources: none"):
        load_torch_state_dict(mnasnet, state, source="torchvision")


@pytest.mark.parametrize("source", ["torchvision", "aa_flax"])
def test_a_detector_with_other_classes_takes_all_but_their_columns(given, source):
    model, state = given
    model_state = arrays(model)
    other = detector(num_classes=3)
    before = arrays(other)
    report = init_from_plain(other, older(state) if source == "torchvision" else model_state, source=source)
    columns = {"class_head.out.kernel", "class_head.out.bias"}
    assert {*report.new} == columns and not report.partial and len(report.unused) == 2
    for path, value in arrays(other).items():
        np.testing.assert_array_equal(value, (before if path in columns else model_state)[path], err_msg=path)
    same = shapes()
    assert not init_from_plain(same, model_state, source="aa_flax").new
    with pytest.raises(WeightsError, match=r"box_head.out.kernel: shape \(3, 3, 12, 36\), expected \(3, 3, 12, 24\)"):
        init_from_plain(shapes(num_classes=3, anchor_scales=2), model_state, source="aa_flax")


def test_an_augmented_detector_starts_from_a_plain_one(given):
    """The layers that attend take the plain filters, those of the detector's backbone too."""
    model, _ = given
    heads = dict(num_heads=1, upsilon=0.25, kappa=0.5, min_key_depth_per_head=2)
    other = detector("retinanet_aa_resnet50", **heads)
    report = init_from_plain(other, arrays(model), source="aa_flax", zero_output=True)
    assert {*report.partial} >= {"backbone.stage2.block1.conv2.conv.kernel", "backbone.stage2.block1.bn2.scale"}
    assert report.new and all(path.startswith("backbone.stage") for path in report.new)
    again = shapes(name="retinanet_aa_resnet50", **heads, image_size=(64, 96), num_classes=3)
    report = init_from_plain(again, arrays(other), source="aa_flax")
    assert {*report.new} == {"class_head.out.kernel", "class_head.out.bias"} and report.resized


def test_a_backbone_from_a_classifier():
    classifier = create_model("resnet50", width=8, blocks=(1, 1, 1, 1), num_classes=4, rngs=nnx.Rngs(3))
    state = {path: value + 0.5 for path, value in arrays(classifier).items()}
    model = detector(flavor="tpu")
    before = arrays(model)
    report = init_from_plain(model, state, source="aa_flax", init_part="backbone")
    assert {*report.unused} == {"head.kernel", "head.bias"}
    for path, value in arrays(model).items():
        own = not path.startswith("backbone.")
        np.testing.assert_array_equal(value, before[path] if own else state[path.removeprefix("backbone.")])
        assert (path in report.new) == own
    torchs = to_torch_state_dict(classifier, source="torchvision")
    assert {*init_from_plain(shapes(), torchs, source="torchvision", init_part="backbone").unused} == {
        "fc.weight",
        "fc.bias",
    }


def test_images_of_other_channels(given):
    _, state = given
    grey = shapes(in_channels=1)
    with pytest.raises(WeightsError, match="adapt_stem=True takes a first convolution"):
        load_torch_state_dict(grey, state, source="torchvision")
    report = load_torch_state_dict(grey, state, source="torchvision", adapt_stem=True)
    assert "backbone.stem.kernel: made for 1 channels from the 3 of the weights" in report.notes
    summed = state["backbone.body.conv1.weight"].sum(1)[:, None].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(arrays(grey)["backbone.stem.kernel"], summed, rtol=1e-6, atol=1e-6)


def test_a_detector_is_saved_and_loaded(tmp_path, given):
    model, _ = given
    save(model, tmp_path / "detector.safetensors")
    again, card = load(tmp_path / "detector.safetensors")
    assert card["model"] == "retinanet_resnet50" and card["num_classes"] == 5 and card["options"]["width"] == 8
    assert again.built_from == model.built_from and again.options == model.options
    for path, value in arrays(again).items():
        np.testing.assert_array_equal(value, arrays(model)[path])


# With torchvision


def torchvisions(detection, blocks, num_classes):
    """Return torchvision's RetinaNet around a ResNet of these blocks; it neither resizes nor normalises."""
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    resnet = ResNet(Bottleneck, list(blocks), norm_layer=FrozenBatchNorm2d)
    extra = LastLevelP6P7(256, 256)
    backbone = _resnet_fpn_extractor(resnet, 5, returned_layers=[2, 3, 4], extra_blocks=extra)
    sizes = dict(min_size=96, max_size=160, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    model = detection.RetinaNet(backbone, num_classes, **sizes)
    overwrite_eps(model, 0.0)
    return model.eval()


def close(ours, theirs):
    """Check that each of torchvision's detections is one of ours, with its score, class and box, and no other."""
    assert len(ours["scores"]) == len(theirs["scores"]) > 20
    left = list(range(len(ours["scores"])))
    for score, label, box in zip(theirs["scores"], theirs["labels"], theirs["boxes"], strict=True):
        same = [
            i
            for i in left
            if ours["labels"][i] == label
            and abs(ours["scores"][i] - score) <= 1e-4 * score
            and np.abs(ours["boxes"][i] - box).max() < 0.02
        ]
        assert same, (score, label, box)
        left.remove(same[0])


@pytest.mark.thorough
@pytest.mark.parametrize("sizes", [[(96, 128)], [(96, 96), (96, 160)], [(160, 96)]], ids=str)
def test_detections_are_torchvisions(rng, random_state_dict, sizes):
    """Images of one size and of two on one canvas, square and not; 96 and 160 are no multiples of P6's stride."""
    detection = torchvision_detection()
    import torch

    theirs = torchvisions(detection, (1, 1, 1, 1), 91)
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    ours = create_model(
        "retinanet_resnet50",
        flavor="torchvision",
        blocks=(1, 1, 1, 1),
        image_size=(height, width),
        rngs=nnx.Rngs(0),
    )
    state = random_state_dict(ours, "torchvision")
    state["head.classification_head.cls_logits.bias"] -= 3.0
    load_torch_state_dict(ours, state, source="torchvision")
    theirs.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    photos = [rng.normal(size=(3, h, w)).astype(np.float32) for h, w in sizes]
    canvas = np.zeros((len(sizes), height, width, 3), np.float32)
    for i, photo in enumerate(photos):
        canvas[i, : photo.shape[1], : photo.shape[2]] = photo.transpose(1, 2, 0)
    with torch.no_grad():
        maps = list(theirs.backbone(torch.as_tensor(canvas.transpose(0, 3, 1, 2))).values())
        heads = theirs.head(maps)
        expected = theirs([torch.as_tensor(photo) for photo in photos])
    graph, values = nnx.split(ours)
    outputs = jax.jit(lambda values, x: nnx.merge(graph, values, copy=True)(x))(values, jnp.asarray(canvas))
    for name, head in (("classes", "cls_logits"), ("boxes", "bbox_regression")):
        wanted = heads[head].numpy()
        np.testing.assert_allclose(outputs[name], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
    found = ours.detections(outputs, height, width, sizes=sizes)
    for i, their in enumerate(expected):
        kept = np.asarray(found.valid[i])
        our = {"scores": found.scores[i], "labels": found.classes[i], "boxes": found.boxes[i]}
        close({k: np.asarray(v)[kept] for k, v in our.items()}, {k: v.numpy() for k, v in their.items()})


def test_the_whole_networks_names_are_torchvisions():
    """ResNet-50 as published: every key of torchvision's state dict, with its shape, and no other."""
    detection = torchvision_detection()
    import torch

    with torch.device("meta"):
        theirs = torchvisions(detection, (3, 4, 6, 3), 91).state_dict()
    ours = nnx.eval_shape(lambda: create_model("retinanet_resnet50", flavor="torchvision", rngs=nnx.Rngs(0)))
    from aa_flax.weights.rows import counterpart
    from aa_flax.weights.tables import table_of

    table = table_of(ours, "torchvision")
    shapes = {}
    for path, array in flat_arrays(ours).items():
        place = counterpart(table, path, array.shape)
        shapes[place.keys[0]] = place.shape(array.shape)
    assert shapes == {key: tuple(value.shape) for key, value in theirs.items()}
