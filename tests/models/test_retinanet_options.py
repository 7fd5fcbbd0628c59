"""Tests of RetinaNet's names, options and flavors."""

import time

import pytest
from flax import nnx

from aa_flax.models import RetinaNet, create_model, list_models, model_options, registry
from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.ops import ANCHORS
from aa_flax.typed import as_type, field_types

OTHERS = dict(fpn_width=16, head_width=12, head_depth=1, num_classes=5, image_size=(64, 96))
TINY = dict(width=8, blocks=(1, 1, 1, 1), **OTHERS)


def shapes(name="retinanet_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def build(name="retinanet_resnet18", **options):
    return create_model(name, **{**TINY, **options}, rngs=nnx.Rngs(0))


def test_names():
    names = list_models(task="detection")
    assert {"retinanet_resnet50", "retinanet_aa_resnet50", "retinanet_se_resnet101", "retinanet_mnasnet_100"} <= {
        *names
    }
    assert {"retinanet_aw_resnet101", "retinanet_fully_attentional_resnet50"} <= {*names}
    classifiers = list_models(task="classification")
    assert {*list_models()} >= {*names, *classifiers} and not {*names} & {*classifiers}
    assert not any(name.startswith("retinanet_") for name in classifiers)
    served = {name for name in classifiers if "wide" not in name and not name.endswith("_multi")}
    assert {*list_models("retinanet_*")} == {f"retinanet_{name}" for name in served} <= {*names}
    assert list_models("retinanet_*resnet50", task="classification") == []


@pytest.mark.usefixtures("unchecked_shapes")
def test_names_that_are_none():
    with pytest.raises(
        ValueError, match=r"task must be one of \('classification', 'detection', .* or None, got 'boxes'"
    ):
        list_models(task="boxes")
    with pytest.raises(ValueError, match="'retinanet_wide_resnet28_10': it needs maps at strides 8, 16, 32, and those"):
        build("retinanet_wide_resnet28_10")
    with pytest.raises(ValueError, match="it needs maps at .* patchconvnet_s60_multi have 16"):
        model_options("retinanet_patchconvnet_s60_multi")
    with pytest.raises(ValueError, match="no model named 'retinanet_resnet55'; did you mean .*'retinanet_resnet50'"):
        build("retinanet_resnet55")
    with pytest.raises(ValueError, match="a family of networks with the prefix 'retinanet_' is registered already"):
        registry.register_family(registry._families["retinanet_"])


def test_a_network_of_ones_own_is_a_backbone_too(monkeypatch):
    """Registered with the strides of its maps, it has a detector around it."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    entry = registry._entries["resnet18"]
    own = dict(num_classes=3, image_size=(32, 32), defaults=dict(entry.defaults))
    registry.register("mine", entry.network, entry.options, **own)
    with pytest.raises(ValueError, match="those of mine have none that are known"):
        build("retinanet_mine")
    registry.register("mine_too", entry.network, entry.options, **own, strides=(4, 8, 16, 32))
    assert "retinanet_mine_too" in list_models()
    assert isinstance(shapes("retinanet_mine_too", **TINY), RetinaNet)


def test_hundreds_of_names_cost_nothing():
    """Listing them and finding one makes no options of the others."""
    start = time.process_time()
    for _ in range(20):
        list_models()
        registry._find("retinanet_cbam_resnet152")
    assert time.process_time() - start < 1


def test_declared_strides_are_those_of_the_maps():
    small = {"resnet18": dict(width=8), "mnasnet_100": dict(width=0.25), "wide_resnet28_10": dict(depth=10)}
    for name, options in {**small, "patchconvnet_s60": dict(depth=2)}.items():
        info = shapes(name, **options).feature_info
        assert registry._entries[name].strides == tuple(each.stride for each in info.values())


def test_options_are_those_around_and_those_of_the_backbone():
    options = model_options("retinanet_se_resnet50")
    assert {*field_types(RetinaNetOptions), "flavor", "reduction", "blocks", "width", "pool_padding"} <= {*options}
    assert not {"pooling", "pooling_tokens", "norm", "recalibration", "backbone"} & {*options}
    assert {"kappa", "num_heads"} <= {*model_options("retinanet_aa_resnet50")}
    mnasnet = model_options("retinanet_mnasnet_100")
    assert mnasnet["width"] is float and "dropout_rate" not in mnasnet
    types = field_types(RetinaNetOptions)
    for flavor in registry._families["retinanet_"].flavors.values():
        for name, value in flavor.options.items():
            kind = types.get(name) or options[name]
            assert as_type(kind, value) == value and isinstance(value, float) == (kind in (float, float | None)), name


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(fpn_widht=3), TypeError, "has no option 'fpn_widht'; did you mean 'fpn_width'"),
        (dict(pooling="attention"), TypeError, "has no option 'pooling'; .* have it"),
        (dict(flavor="detectron2"), ValueError, "flavor must be one of 'tpu', 'torchvision', got 'detectron2'"),
        (dict(num_classes=0), ValueError, "num_classes of a detector must be at least 1, got 0"),
        (dict(min_level=1), ValueError, r"min_level must be a level .* one of \[2, 3, 4, 5\]"),
        (dict(max_level=2), ValueError, r"min_level must be .* at most max_level, got 3 and 2"),
        (dict(max_level=99), ValueError, r"max_level must lie in \[5, 13\]"),
        (dict(fpn_width=0), ValueError, "fpn_width must be at least 1, got 0"),
        (dict(head_depth=-1), ValueError, "head_depth must be at least 0, got -1"),
        (dict(prior=0.0), ValueError, "prior must be a probability between 0 and 1, got 0"),
        (dict(score_threshold=1.5), ValueError, r"score_threshold must lie in \[0, 1\], got 1.5"),
        (dict(iou_threshold=-0.5), ValueError, r"iou_threshold must lie in \[0, 1\], got -0.5"),
        (dict(iou_threshold=float("nan")), ValueError, "iou_threshold must"),
        (dict(max_detections=0), ValueError, "max_detections must be at least 1, got 0"),
        (dict(anchor_size=0.0), ValueError, "anchor_size must be above 0"),
        (dict(anchor_scales=0), ValueError, "anchor_scales must be at least 1"),
        (dict(anchor_pairs=((1.0,),)), ValueError, "anchor_pairs must be factors of width and height"),
        (dict(anchor_ratios=(0.0,)), ValueError, "anchor_ratios must be numbers above 0"),
        (dict(background_iou=0.6), ValueError, "background_iou must lie between 0 and foreground_iou"),
        (dict(batch_norm_epsilon=0.0), ValueError, "batch_norm_epsilon must be above 0 where a batch norm learns"),
        (dict(flavor="torchvision", frozen_norms=False), ValueError, "batch_norm_epsilon must be above 0 where a"),
        (dict(extra_levels_from="c5"), ValueError, "extra_levels_from must be one of .*'pooling', got 'c5'"),
        (dict(width=0), ValueError, "width must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options, kind, message):
    with pytest.raises(kind, match=message):
        shapes(**{**TINY, **options})


def test_flavors_are_the_columns_of_the_published_table():
    """Written out here; the anchors of each are tested in ops, and what they compute in test_detections."""
    tpu, torchvision = (shapes(**TINY, flavor=flavor).options for flavor in ("tpu", "torchvision"))
    rows = dict(
        extra_levels_from=("pyramid", "pyramid"),
        fpn_norm=(True, False),
        head_norm=(True, False),
        padding=("same", "symmetric"),
        anchor_scales=(2, 3),
        anchor_centre=(0.5, 0.0),
        anchor_rounding=(False, True),
        anchor_ratios=(None, (0.5, 1.0, 2.0)),
        foreground_iou=(0.5, 0.5),
        background_iou=(0.5, 0.4),
        forced_matches=("best_anchor", "low_quality"),
        focal_alpha=(0.25, 0.25),
        focal_gamma=(1.5, 2.0),
        box_loss=("huber", "l1"),
        box_loss_weight=(50.0, 4.0),
        normalizer=("batch", "image"),
        candidates=(5000, 1000),
        candidates_per_level=(False, True),
        score_threshold=(None, 0.05),
        iou_threshold=(0.5, 0.5),
        nms_pixel_offset=(1.0, 0.0),
        max_detections=(100, 300),
        clip=(False, True),
        frozen_norms=(False, True),
        batch_norm_epsilon=(1e-4, 0.0),
        prior=(0.01, 0.01),
    )
    for name, values in rows.items():
        assert (getattr(tpu, name), getattr(torchvision, name)) == values, name
    assert tpu.box_loss_delta == 0.1 and tpu.batch_norm_momentum == 0.997 and tpu.max_log_side is None
    assert torchvision.max_log_side == pytest.approx(4.135, abs=1e-3)
    assert registry.model_defaults("retinanet_resnet18") == (90, (640, 640))
    assert shapes(**{**TINY, "num_classes": None}, flavor="torchvision").num_classes == 91


def test_width_of_a_resnet():
    model = shapes("resnet50", width=16)
    assert model.stem.kernel.shape[-1] == 16 and model.stage4.block1.conv2.kernel.shape == (3, 3, 128, 128)
    assert [info.channels for info in model.feature_info.values()] == [64, 128, 256, 512]


def test_a_network_remembers_how_it_was_built():
    model = shapes(**TINY, flavor="torchvision", anchor_ratios=[1.0])
    assert model.built_from.name == "retinanet_resnet18" and model.built_from.num_classes == 5
    assert dict(model.built_from.options)["anchor_ratios"] == (1.0,)
    again = nnx.eval_shape(lambda: create_model(**model.built_from.arguments(), rngs=nnx.Rngs(0)))
    assert nnx.split(again)[0] == nnx.split(model)[0] and hash(nnx.split(model)[0])


@pytest.mark.thorough
def test_the_column_of_detectron2_is_options():
    """Convolutions of ResNet-50 with 80 classes have 37.92 M parameters, counted from detectron2's code."""
    options = dict(extra_levels_from="backbone", anchor_stride="level", anchor_truncation=False, anchor_rounding=False)
    options |= dict(anchor_order="scale", normalizer="running", max_detections=100, num_classes=80, unused_columns=0)
    options |= dict(image_size=(64, 96), flavor="torchvision")
    model = shapes("retinanet_resnet50", **options)
    by_path = {path: leaf.size for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    convolutions = sum(size for path, size in by_path.items() if path[-1] == "kernel" or path[0] != "backbone")
    assert round(convolutions / 1e6, 2) == 37.92
    assert model.options.anchors() == ANCHORS["detectron2"] and model.loss_normalizer is not None
    assert RetinaNetOptions(box_loss="giou", box_loss_weight=1.0).normalizer == "batch"
