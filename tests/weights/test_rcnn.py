"""Tests of torchvision's Faster and Mask R-CNN: their names, their outputs, their detections one by one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.ops import roi_align
from aa_flax.weights import WeightsError, init_from_plain, load_torch_state_dict, to_torch_state_dict
from aa_flax.weights.arrays import flat_arrays

from .conftest import _random_state_dict
from .torch_named import Network, NumpyBackend
from .torchvision_here import torchvision_detection

SIZES = dict(fpn_width=16, rpn_width=16, box_head_width=24, mask_head_width=12, num_classes=6)
TINY = dict(width=8, blocks=(1, 1, 1, 1), image_size=(64, 96), **SIZES)
FEW = dict(proposals_per_level=60, proposals=40, max_detections=30)


def build(name="mask_rcnn_resnet18", **options):
    sizes = {key: value for key, value in TINY.items() if "mask" in name or "mask" not in key}
    return create_model(name, **{**sizes, **options}, rngs=nnx.Rngs(0))


def shapes(name="mask_rcnn_resnet18", **options):
    return nnx.eval_shape(lambda: build(name, **options))


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


OF_CLASSES = ("box_head.classes", "box_head.boxes", "mask_head.out")


def older(state):
    """Return a state dict with the names that torchvision's files of 2019 have."""
    named = {}
    for key, value in state.items():
        key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        named[key] = value
    return named


@pytest.fixture(scope="module")
def given():
    """Return a tiny Mask R-CNN with random weights, and these by torchvision's names."""
    model = build()
    state = _random_state_dict(np.random.default_rng(5), model, "torchvision")
    load_torch_state_dict(model, state, source="torchvision")
    return model, state


def test_both_spellings_are_the_same_weights(given):
    model, state = given
    assert {"rpn.head.conv.0.0.weight", "roi_heads.mask_head.3.0.bias", "roi_heads.box_head.fc7.weight"} <= {*state}
    old = older(state)
    assert {"rpn.head.conv.weight", "roi_heads.mask_head.mask_fcn4.bias"} <= {*old} and not {*old} & {
        "rpn.head.conv.0.0.weight"
    }
    other = shapes()
    assert {*load_torch_state_dict(other, old, source="torchvision").loaded} == {*arrays(model)}
    for path, value in arrays(model).items():
        np.testing.assert_array_equal(arrays(other)[path], value, err_msg=path)


def test_heads_are_torchvisions(rng, given):
    """PyTorch flattens a region as channel, row, column; its transposed convolution has [in, out, 2, 2]."""
    model, state = given
    maps = {f"p{level}": rng.normal(size=(1, 2 ** (7 - level), 2 ** (7 - level), 16)) for level in range(2, 7)}
    maps = {name: jnp.asarray(x, jnp.float32) for name, x in maps.items()}
    boxes = jnp.asarray([[[3.0, 5, 40, 31], [60, 2, 90, 100], [0, 0, 128, 128]]])
    graph, values = nnx.split(model)
    pools = dict(strides=[4, 8, 16, 32], sampling_ratio=2, aligned=False)

    def all_of_it(values, maps):
        merged, levels = nnx.merge(graph, values, copy=True), [maps[f"p{level}"] for level in (2, 3, 4, 5)]
        regions = [roi_align(levels, boxes, output_size=size, **pools)[0] for size in (7, 14)]
        return merged.box_outputs(maps, boxes), merged.mask_outputs(maps, boxes), *regions

    found, masks, small, large = jax.tree.map(np.asarray, jax.jit(all_of_it)(values, maps))
    net = Network(state, NumpyBackend())
    x = small.transpose(0, 3, 1, 2).reshape(3, -1).astype(np.float64)
    for layer in ("fc6", "fc7"):
        x = np.maximum(linear(state, f"roi_heads.box_head.{layer}", x), 0)
    for name, layer in (("classes", "cls_score"), ("boxes", "bbox_pred")):
        wanted = linear(state, f"roi_heads.box_predictor.{layer}", x).reshape(found[name].shape)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    x = large.transpose(0, 3, 1, 2).astype(np.float64)
    for i in range(4):
        x = np.maximum(net.conv(x, f"roi_heads.mask_head.{i}.0"), 0)
    kernel, bias = (state[f"roi_heads.mask_predictor.conv5_mask.{name}"] for name in ("weight", "bias"))
    doubled = np.zeros((3, kernel.shape[1], 28, 28)) + bias[None, :, None, None]
    for row in range(2):
        for column in range(2):
            doubled[:, :, row::2, column::2] += np.einsum("nchw,co->nohw", x, kernel[:, :, row, column])
    wanted = net.conv(np.maximum(doubled, 0), "roi_heads.mask_predictor.mask_fcn_logits").transpose(0, 2, 3, 1)
    assert masks.shape == (1, 3, 28, 28, 6)
    np.testing.assert_allclose(masks[0], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T.astype(np.float64) + state[f"{name}.bias"]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "options", [dict(flavor="detectron2", num_classes=5), dict(num_classes=4), dict(flavor="detectron2")], ids=str
)
def test_other_classes_and_other_columns(given, options):
    """Other classes leave the three layers for them as they were, and so does background in another column."""
    report = init_from_plain(shapes(**options), given[1], source="torchvision")
    new = {f"{part}.{leaf}" for part in OF_CLASSES for leaf in ("kernel", "bias")}
    assert {*report.new} == new and len(report.unused) == 6 and not report.partial


@pytest.mark.thorough
def test_masks_from_boxes_and_boxes_from_masks(given):
    _, state = given
    with pytest.raises(WeightsError, match=r"box_head.classes.kernel: torchvision has no such layer"):
        load_torch_state_dict(shapes(flavor="detectron2", num_classes=5), state, source="torchvision")
    boxes = {key: value for key, value in state.items() if "mask" not in key}
    report = init_from_plain(shapes(), boxes, source="torchvision")
    assert report.new and all(path.startswith("mask_head.") for path in report.new)
    assert not init_from_plain(shapes("faster_rcnn_resnet18"), state, source="torchvision").new


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["retinanet_resnet18", "faster_rcnn_resnet18"])
def test_anchors_of_the_networks_own_order(rng, name):
    """Channels are reordered with the anchors: each anchor has the numbers that torchvision gives it."""
    sizes = dict(width=8, blocks=(1, 1, 1, 1), image_size=(64, 96), num_classes=3, flavor="torchvision")
    options = {**sizes, "fpn_width": 8, "anchor_scales": 2, "anchor_ratios": (0.5, 1.0, 2.0)}
    theirs, ours = (nnx.eval_shape(lambda o=o: build_exactly(name, **options, anchor_order=o)) for o in ORDERS)
    state = _random_state_dict(rng, build_exactly(name, **options, anchor_order="shape"), "torchvision")
    for model in (theirs, ours):
        load_torch_state_dict(model, state, source="torchvision")
    path = "box_head.out.kernel" if name.startswith("retina") else "rpn.deltas.kernel"
    kernels = [arrays(model)[path].reshape(-1, 6, 4) for model in (theirs, ours)]
    boxes = [model.options.anchors().at_origin(4) for model in (theirs, ours)]
    same = [int(np.abs(boxes[1] - box).sum(1).argmin()) for box in boxes[0]]
    assert same != list(range(6)) and sorted(same) == list(range(6))
    np.testing.assert_array_equal(kernels[1][:, same], kernels[0])
    back = to_torch_state_dict(ours, source="torchvision")
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


ORDERS = ("shape", "scale")


def build_exactly(name, **options):
    return create_model(name, **options, rngs=nnx.Rngs(0))


def test_shapes_alone_cannot_keep_initial_values(given):
    _, state = given
    augmented = dict(upsilon=0.25, num_heads=1)
    with pytest.raises(WeightsError, match=r"bn1.scale: keeps initial values in part, .* has shapes only"):
        init_from_plain(shapes("mask_rcnn_aa_resnet18", **augmented), state, source="torchvision")


# With torchvision


def torchvisions(detection, masks, **counts):
    """Return torchvision's R-CNN around a small ResNet; it neither resizes nor normalises nor pastes masks."""
    from torchvision.models.detection import faster_rcnn, mask_rcnn
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import FrozenBatchNorm2d

    resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(resnet, layers, [64, 128, 256, 512], 16)
    options = dict(
        box_head=faster_rcnn.TwoMLPHead(16 * 49, 24),
        box_predictor=faster_rcnn.FastRCNNPredictor(24, 6),
        min_size=64,
        max_size=160,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **counts,
    )
    if masks:
        options["mask_head"] = mask_rcnn.MaskRCNNHeads(16, (12,) * 4, 1)
        options["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(12, 12, 6)
    model = (detection.MaskRCNN if masks else detection.FasterRCNN)(backbone, None, **options)
    overwrite_eps(model, 0.0)
    model.transform.postprocess = lambda found, *_: found
    return model.eval()


def of_one_state(theirs, ours, rng):
    """Fill both networks with one random state."""
    import torch

    state = _random_state_dict(rng, ours, "torchvision")
    state["roi_heads.box_predictor.cls_score.weight"] *= 3
    load_torch_state_dict(ours, state, source="torchvision")
    theirs.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})


def on_canvas(rng, sizes):
    photos = [rng.normal(size=(3, h, w)).astype(np.float32) for h, w in sizes]
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    canvas = np.zeros((len(sizes), height, width, 3), np.float32)
    for i, photo in enumerate(photos):
        canvas[i, : photo.shape[1], : photo.shape[2]] = photo.transpose(1, 2, 0)
    return photos, canvas


def close(ours, theirs, error=1e-4):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=error, atol=error * scale)


@pytest.mark.parametrize(
    "sizes",
    [
        [(64, 96)],
        pytest.param([(64, 64), (64, 160)], marks=pytest.mark.thorough),
        pytest.param([(150, 64)], marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_every_step_is_torchvisions(rng, sizes):
    """Outputs of the proposal network, proposals, outputs of the box head, detections and masks, one by one."""
    detection = torchvision_detection()
    import torch

    counts = dict(rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=40, box_detections_per_img=30)
    theirs, ours = torchvisions(detection, True, **counts), build(**FEW, width=64)
    of_one_state(theirs, ours, rng)
    photos, canvas = on_canvas(rng, sizes)
    height, width = canvas.shape[1:3]
    with torch.no_grad():
        tensors = [torch.as_tensor(photo) for photo in photos]
        images, _ = theirs.transform(tensors)
        assert images.tensors.shape[2:] == (height, width) and [*images.image_sizes] == sizes
        maps = theirs.backbone(images.tensors)
        logits, deltas = theirs.rpn.head(list(maps.values()))
        proposals, _ = theirs.rpn(images, maps)
        regions = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(maps, proposals, images.image_sizes))
        outputs = theirs.roi_heads.box_predictor(regions)
        expected = theirs(tensors)
    graph, state = nnx.split(ours)

    def all_of_it(state, x):
        model = nnx.merge(graph, state, copy=True)
        maps = model.features(x)
        proposed = model.propose(maps, height, width, sizes=sizes)
        found = model.box_outputs(maps, proposed["proposals"])
        return maps, proposed, found, model.detect(x, sizes=sizes)

    our_maps, proposed, found, detections = jax.jit(all_of_it)(state, jnp.asarray(canvas))
    for level, theirs_ in zip(range(2, 7), maps.values(), strict=True):
        close(our_maps[f"p{level}"], theirs_.numpy().transpose(0, 2, 3, 1))
    by_place = [[y.permute(0, 2, 3, 1).reshape(len(sizes), -1, n) for y in ys] for ys, n in ((logits, 1), (deltas, 4))]
    close(proposed["objectness"], torch.cat(by_place[0], 1).numpy()[..., 0])
    close(proposed["proposal_deltas"], torch.cat(by_place[1], 1).numpy())
    first = 0
    for i, proposals_ in enumerate(proposals):
        number = int(proposed["valid"][i].sum())
        assert number == len(proposals_) > 5
        np.testing.assert_allclose(proposed["proposals"][i, :number], proposals_.numpy(), atol=0.01)
        for ours_, theirs_ in (
            (found["classes"], outputs[0]),
            (found["boxes"].reshape(len(sizes), -1, 24), outputs[1]),
        ):
            close(ours_[i, :number], theirs_[first : first + number].numpy(), 2e-4)
        first += number
        compare(jax.tree.map(lambda x, i=i: np.asarray(x[i]), detections), expected[i])


def compare(ours, theirs):
    """Check that each of torchvision's detections is one of ours with its score, class, box and mask, and no other."""
    kept = np.flatnonzero(ours.valid)
    assert len(kept) == len(theirs["scores"]) > 10 and 0 not in ours.classes
    left = kept.tolist()
    for score, label, box, mask in zip(
        *(theirs[name].numpy() for name in ("scores", "labels", "boxes", "masks")), strict=True
    ):
        same = [
            i
            for i in left
            if ours.classes[i] == label
            and abs(ours.scores[i] - score) <= 1e-3 * score
            and np.abs(ours.boxes[i] - box).max() < 0.02
        ]
        assert same, (score, label, box)
        np.testing.assert_allclose(ours.masks[same[0]], mask[0], atol=2e-3)
        left.remove(same[0])


@pytest.mark.thorough
def test_the_published_network_finds_the_same(rng):
    """ResNet-50 and all sizes as published, with random weights: 1000 proposals, up to 100 detections and masks."""
    detection = torchvision_detection()
    import torch
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops import FrozenBatchNorm2d

    backbone = _resnet_fpn_extractor(ResNet(Bottleneck, [3, 4, 6, 3], norm_layer=FrozenBatchNorm2d), 5)
    sizes = dict(min_size=96, max_size=160, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    theirs = detection.MaskRCNN(backbone, 91, **sizes).eval()
    overwrite_eps(theirs, 0.0)
    theirs.transform.postprocess = lambda found, *_: found
    ours = nnx.eval_shape(lambda: create_model("mask_rcnn_resnet50", image_size=(96, 160), rngs=nnx.Rngs(0)))
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    for key, value in state.items():
        if value.ndim == 1 and "bn3" in key and key.endswith("weight"):
            state[key] = value * 0.2  # so that the values of sixteen residual blocks do not grow
    state["roi_heads.box_predictor.cls_score.weight"] = rng.normal(0, 0.5, (91, 1024)).astype(np.float32)
    state["rpn.head.cls_logits.weight"] *= 100
    load_torch_state_dict(ours, state, source="torchvision")
    theirs.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    photos, canvas = on_canvas(rng, [(96, 160)])
    with torch.no_grad():
        expected = theirs([torch.as_tensor(photos[0])])[0]
    graph, values = nnx.split(ours)
    found = jax.jit(lambda values, x: nnx.merge(graph, values, copy=True).detect(x))(values, jnp.asarray(canvas))
    compare(jax.tree.map(lambda x: np.asarray(x[0]), found), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["faster_rcnn_resnet50", "mask_rcnn_resnet50"])
def test_the_whole_networks_names_are_torchvisions(name):
    """ResNet-50 as published: every key of torchvision's state dict, with its shape, and no other."""
    detection = torchvision_detection()
    import torch

    from aa_flax.weights.rows import counterpart
    from aa_flax.weights.tables import table_of

    with torch.device("meta"):
        builder = detection.maskrcnn_resnet50_fpn if "mask" in name else detection.fasterrcnn_resnet50_fpn
        theirs = builder(weights=None, weights_backbone=None).state_dict()
    ours = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    table, found = table_of(ours, "torchvision"), {}
    for path, array in flat_arrays(ours).items():
        place = counterpart(table, path, array.shape)
        found[place.keys[0]] = place.shape(array.shape)
    theirs = {key: tuple(value.shape) for key, value in theirs.items() if "num_batches_tracked" not in key}
    assert found == theirs
