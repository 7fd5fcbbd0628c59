"""Tests of the options, flavors, parameters and operations of Faster and Mask R-CNN."""

import math

import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.models import create_model, list_models, model_options, registry
from aa_flax.models.backbones import norms_of_its_own
from aa_flax.models.rcnn_options import MaskRCNNOptions, RCNNOptions
from aa_flax.typed import as_type, field_types


def shapes(name="mask_rcnn_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "flavor", "params", "norms"),
    [
        ("faster_rcnn_resnet50", "torchvision", 41_755_286, 53_120),
        ("mask_rcnn_resnet50", "detectron2", 44_343_216, 53_120),
        ("faster_rcnn_aw_resnet101", "torchvision", 60_695_190 + 305_592, 105_344),
        ("mask_rcnn_resnet50", "torchvision", 44_401_393, 53_120),
        ("faster_rcnn_resnet50", "detectron2", 41_699_936, 53_120),
        ("faster_rcnn_resnet101", "torchvision", 60_695_190, 105_344),
        ("mask_rcnn_resnet101", "torchvision", 63_341_297, 105_344),
        ("faster_rcnn_resnet101", "detectron2", 60_639_840, 105_344),
        ("mask_rcnn_resnet101", "detectron2", 63_283_120, 105_344),
        ("mask_rcnn_aw_resnet101", "detectron2", 63_283_120 + 305_592, 105_344),
    ],
)
def test_parameters(name, flavor, params, norms):
    """Those that are published for torchvision, and counted from detectron2's code; frozen norms are not among them."""
    model = shapes(name, flavor=flavor)
    found = sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)))
    own = sum(2 * norm.num_features for _, norm in norms_of_its_own(model.backbone))
    assert (found - own, own) == (params, norms)


def test_operations():
    """2 × multiply-adds, worked out by layers: 1000 proposals in the box head, 100 detections in the mask head."""
    summary = summarize("mask_rcnn_resnet50", (320, 448))
    parts = {part: summary.by_module[part].flops / 2 for part in ("backbone", "fpn", "rpn", "box_head", "mask_head")}
    assert sum(parts.values()) == summary.flops / 2
    places = [80 * 112, 40 * 56, 20 * 28, 10 * 14, 5 * 7]
    assert parts["rpn"] == sum(places) * (9 * 256 * 256 + 256 * 15)
    lateral = sum(n * c * 256 for n, c in zip(places, (256, 512, 1024, 2048), strict=False))
    assert parts["fpn"] == lateral + sum(places[:4]) * 9 * 256 * 256
    assert parts["box_head"] == 1000 * (49 * 256 * 1024 + 1024 * 1024 + 1024 * (91 + 364))
    convolutions, doubled, last = 4 * 14 * 14 * 9 * 256 * 256, 28 * 28 * 256 * 256, 28 * 28 * 256 * 91
    assert parts["mask_head"] == 100 * (convolutions + doubled + last)
    assert summary.frozen == 53_120 + 222_400  # norms, and the convolutions of the stem and stage 1


def test_names_and_options():
    names = list_models(task="detection")
    for name in ("resnet50", "aw_resnet101", "aw_se_resnet50", "aa_resnet50", "mnasnet_100", "patchconvnet_s60"):
        assert {f"faster_rcnn_{name}", f"mask_rcnn_{name}"} <= {*names}
    options = model_options("mask_rcnn_aa_resnet50")
    assert {*field_types(MaskRCNNOptions), "flavor", "kappa", "blocks"} <= {*options}
    assert not {*field_types(MaskRCNNOptions)} - {*field_types(RCNNOptions)} & {*model_options("faster_rcnn_resnet50")}
    for prefix in ("faster_rcnn_", "mask_rcnn_"):
        family = registry._families[prefix]
        types = field_types(family.options)
        for flavor in family.flavors.values():
            for name, value in flavor.options.items():
                assert as_type(types[name], value) == value, name
    assert registry.model_defaults("faster_rcnn_resnet50") == (91, (800, 1344))
    assert registry.options_around("faster_rcnn_patchconvnet_s60").frozen_stages == 0


def test_flavors_are_the_columns_of_the_published_table():
    """Written out here; what they compute is tested in test_region_detections and, with torchvision, in weights."""
    torchvision, detectron2 = (registry.options_around("mask_rcnn_resnet50", flavor=name) for name in FLAVORS)
    rows = dict(
        min_level=(2, 2),
        max_level=(6, 6),
        extra_levels_from=("pooling", "pooling"),
        batch_norm_epsilon=(0.0, 1e-5),
        frozen_norms=(True, True),
        frozen_stages=(1, 1),
        anchor_rounding=(True, False),
        anchor_stride=("image", "level"),
        anchor_centre=(0.0, 0.0),
        rpn_foreground_iou=(0.7, 0.7),
        rpn_background_iou=(0.3, 0.3),
        rpn_forced_matches=("low_quality", "low_quality"),
        rpn_samples=(256, 256),
        rpn_positive_fraction=(0.5, 0.5),
        rpn_box_loss=("smooth_l1", "l1"),
        rpn_box_loss_beta=(1 / 9, 1 / 9),
        rpn_normalizer=("samples", "images"),
        proposals_per_level=(1000, 1000),
        proposals_per_level_in_training=(2000, 2000),
        proposals=(1000, 1000),
        proposals_in_training=(2000, 1000),
        proposal_iou_threshold=(0.7, 0.7),
        proposal_least_side=(1e-3, 1e-30),
        truths_are_proposals=(True, True),
        box_foreground_iou=(0.5, 0.5),
        box_samples=(512, 512),
        box_positive_fraction=(0.25, 0.25),
        sampling_ratio=(2, 2),
        aligned=(False, True),
        region_size=(7, 7),
        mask_region_size=(14, 14),
        box_weights=((10, 10, 5, 5),) * 2,
        box_loss=("smooth_l1", "l1"),
        background=("first", "last"),
        unused_columns=(1, 0),
        mask_targets=("soft", "hard"),
        score_threshold=(0.05, 0.05),
        iou_threshold=(0.5, 0.5),
        max_detections=(100, 100),
        box_least_side=(1e-2, 0.0),
    )
    for name, values in rows.items():
        assert (getattr(torchvision, name), getattr(detectron2, name)) == values, name
    for options in (torchvision, detectron2):
        assert options.max_log_side == pytest.approx(4.135, abs=1e-3)
        sides = [options.anchors().at_origin(level) for level in options.levels]
        for boxes, side in zip(sides, (32, 64, 128, 256, 512), strict=True):
            width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
            assert [*height / width] == pytest.approx([0.5, 1, 2], rel=0.05)
            assert [*(height * width) ** 0.5] == pytest.approx([side] * 3, rel=0.05)
    # The first anchor of torchvision's level 2, as it prints it: sides of 45.25 and 22.63 rounded from the middle.
    assert torchvision.anchors().at_origin(2)[0].tolist() == [-23, -11, 23, 11]
    assert (torchvision.background_column(91), detectron2.background_column(80)) == (0, 80)
    assert (torchvision.score_columns(91), detectron2.score_columns(80)) == (91, 81)


FLAVORS = ("torchvision", "detectron2")


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(flavor="tpu"), ValueError, "flavor must be one of 'torchvision', 'detectron2', got 'tpu'"),
        (dict(rpn_foreground_iou=0.2), ValueError, "rpn_background_iou must lie between 0 and rpn_foreground_iou"),
        (dict(proposals=0), ValueError, "proposals must be at least 1, got 0"),
        (dict(rpn_positive_fraction=1.5), ValueError, r"rpn_positive_fraction must lie in \[0, 1\], got 1.5"),
        (dict(box_weights=(1.0, 1.0)), ValueError, "box_weights must be four numbers above 0"),
        (dict(score_threshold=-1.0), ValueError, r"score_threshold must lie in \[0, 1\]"),
        (dict(mask_head_width=0), ValueError, "mask_head_width must be at least 1, got 0"),
        (dict(frozen_norms=False), ValueError, "batch_norm_epsilon must be above 0 where a batch norm learns"),
        (dict(background="none"), ValueError, "background must be one of 'first', 'last', got 'none'"),
        (dict(num_classes=0), ValueError, "num_classes of a detector must be at least 1, got 0"),
        (dict(num_classes=1), ValueError, "num_classes must be at least 2 where the first column is background, got 1"),
        (dict(prior=0.1), TypeError, "has no option 'prior'; retinanet_"),
        (dict(head_width=8), TypeError, "has no option 'head_width'; did you mean 'box_head_width'"),
        (dict(prior=0.1, nms=1), TypeError, "has no option 'prior'; retinanet_.* have it; no option 'nms'"),
    ],
)
def test_options_that_cannot_be(options, kind, message):
    with pytest.raises(kind, match=message):
        shapes(**{"width": 8, "blocks": (1, 1, 1, 1), **options})
    assert "mask_targets" not in model_options("faster_rcnn_resnet18")
