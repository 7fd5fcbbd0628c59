import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.layers.norm import BatchNorm
from aa_flax.models import RetinaNet, create_model, list_models, model_options, registry
from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.models.stages import FeatureInfo
from aa_flax.training import functional
from aa_flax.typed import as_type, field_types

OTHERS = dict(fpn_width=16, head_width=12, head_depth=1, num_classes=5, image_size=(64, 96))
TINY = dict(width=8, blocks=(1, 1, 1, 1), **OTHERS)


def build(name="retinanet_resnet18", **options):
    return create_model(name, **{**TINY, **options}, rngs=nnx.Rngs(0))


def shapes(name="retinanet_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def sizes_of(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def modules(model):
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}


# Counts


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "options", "params", "frozen"),
    [
        ("retinanet_resnet50", {}, 33_420_404, 0),
        ("retinanet_resnet50", dict(flavor="torchvision"), 34_068_119, 53_120),
        ("retinanet_se_resnet50", dict(squeeze_excite_bias=False), 35_935_348, 0),
        ("retinanet_resnet50", dict(num_classes=80), 33_282_104, 0),
        ("retinanet_resnet50", dict(anchor_scales=3), 34_070_414, 0),
        ("retinanet_resnet101", {}, 52_412_532, 0),
        ("retinanet_resnet101", dict(anchor_scales=3), 53_062_542, 0),
        ("retinanet_se_resnet50", {}, 35_951_396, 0),
        ("retinanet_se_resnet101", {}, 57_190_244, 0),
        ("retinanet_se_resnet101", dict(squeeze_excite_bias=False), 57_155_700, 0),
    ],
)
def test_parameters(name, options, params, frozen):
    """Those of Table 5 (33.4, 52.4, 35.9 and 57.2 M), and what torchvision's network has with its frozen norms."""
    model = shapes(name, **options)
    found = {path: math.prod(value.shape) for path, value in nnx_params(model).items()}
    assert sum(found.values()) == params
    parts = model.frozen_parts
    assert sum(size for path, size in found.items() if path.rpartition(".")[0] in parts) == frozen
    assert {path.rpartition(".")[2] for path in found if path.rpartition(".")[0] in parts} <= {"scale", "bias"}


def nnx_params(model):
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "gflops"), [("retinanet_resnet50", 182.3), ("retinanet_resnet101", 242.9)], ids=["resnet50", "resnet101"]
)
def test_operations_of_table_5(name, gflops):
    """2 × multiply-adds at 640×640, both heads at all levels; for ResNet-50 divided as 33.364, 6.496 and 51.304 G."""
    summary = summarize(name)
    assert summary.image_shape == (640, 640, 3) and summary.flops / 1e9 == pytest.approx(gflops, rel=5e-4)
    parts = {part: summary.by_module[part].flops / 2e9 for part in ("backbone", "fpn", "class_head", "box_head")}
    assert sum(parts.values()) == pytest.approx(summary.flops / 2e9, rel=1e-9)
    assert parts["fpn"] == pytest.approx(6.496, abs=1e-3)
    assert parts["class_head"] + parts["box_head"] == pytest.approx(51.304, abs=1e-3)
    if name == "retinanet_resnet50":
        assert parts["backbone"] == pytest.approx(33.364, abs=1e-3)


def test_summary_prints_frozen_parameters_apart():
    summary = summarize(shapes(**TINY, flavor="torchvision"))
    frozen = sum(2 * channels for channels in (8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64))
    assert summary.frozen == frozen and summary.params > frozen
    *_, before, last = summary.table(depth=1).splitlines()
    assert before.split()[-1] == f"{frozen:,}" and last.startswith("total")
    assert next(iter(summary.by_module)) == "backbone"  # which is not called itself
    plain = summarize(shapes("resnet18", width=8, blocks=(1, 1, 1, 1)), 32)
    assert plain.frozen == 0 and "frozen" not in plain.table()


# Names and options


def test_names():
    names = list_models(task="detection")
    assert {"retinanet_resnet50", "retinanet_aa_resnet50", "retinanet_se_resnet101", "retinanet_mnasnet_100"} <= {
        *names
    }
    assert {"retinanet_aw_resnet101", "retinanet_fully_attentional_resnet50"} <= {*names}
    classifiers = list_models(task="classification")
    assert {*list_models()} == {*names, *classifiers} and not {*names} & {*classifiers}
    assert not any(name.startswith("retinanet_") for name in classifiers)
    served = {name for name in classifiers if "wide" not in name and "patch" not in name}
    assert {*names} == {f"retinanet_{name}" for name in served}
    assert list_models("retinanet_*resnet50", task="classification") == []


@pytest.mark.usefixtures("unchecked_shapes")
def test_names_that_are_none():
    with pytest.raises(ValueError, match=r"task must be one of \('classification', 'detection'\) or None, got 'boxes'"):
        list_models(task="boxes")
    with pytest.raises(ValueError, match="'retinanet_wide_resnet28_10': it needs maps at strides 8, 16, 32, and those"):
        build("retinanet_wide_resnet28_10")
    with pytest.raises(ValueError, match="it needs maps at .* patchconvnet_s60 have 16"):
        model_options("retinanet_patchconvnet_s60")
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
        (dict(anchor_size=0.0), ValueError, "anchor_size must be above 0"),
        (dict(anchor_scales=0), ValueError, "anchor_scales must be at least 1"),
        (dict(anchor_pairs=((1.0,),)), ValueError, "anchor_pairs must be factors of width and height"),
        (dict(anchor_ratios=(0.0,)), ValueError, "anchor_ratios must be numbers above 0"),
        (dict(background_iou=0.6), ValueError, "background_iou must lie between 0 and foreground_iou"),
        (dict(batch_norm_epsilon=0.0), ValueError, "batch_norm_epsilon must be above 0 where a batch norm learns"),
        (dict(flavor="torchvision", frozen_norms=False), ValueError, "batch_norm_epsilon must be above 0 where a"),
        (dict(extra_levels_from="c5"), ValueError, "extra_levels_from must be one of 'pyramid', 'backbone', got 'c5'"),
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


# Calls


class Strided(nnx.Module):
    """A backbone without parameters: every eighth, sixteenth and thirty-second pixel."""

    image_size, in_channels = (64, 96), 3
    feature_info = {f"s{stride}": FeatureInfo(3, stride) for stride in (8, 16, 32)}  # noqa: RUF012

    def features(self, images, *, train=None, rngs=None):
        return {name: images[:, :: info.stride, :: info.stride] for name, info in self.feature_info.items()}


def around_strided(**options):
    sizes = dict(fpn_width=8, head_width=6, head_depth=1)
    return RetinaNet(RetinaNetOptions(**sizes, **options), Strided(), num_classes=5, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def tiny():
    return around_strided()


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(2).normal(size=(2, 64, 96, 3)), jnp.float32)


@pytest.fixture(scope="module")
def computed(tiny, images):
    """Return, of one program, outputs, maps, what the heads give at each level, and detections in two ways."""
    graph, state = nnx.split(tiny)

    def all_of_it(state, x):
        model = nnx.merge(graph, state, copy=True)
        model.train()
        outputs = model(x, train=False)
        maps = {int(name[1:]): y for name, y in model.features(x, train=False).items()}
        by_level = model.class_head(maps, train=False), model.box_head(maps, train=False)
        found = model.detect(x, max_detections=7), model.detections(outputs, 64, 96, max_detections=7)
        return outputs, maps, *by_level, found, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(all_of_it)(state, images)


PLACES = {3: (8, 12), 4: (4, 6), 5: (2, 3), 6: (1, 2), 7: (1, 1)}


def test_outputs_features_and_anchors_have_one_order(tiny, computed):
    """Level, row, column, anchor; the class runs fastest."""
    outputs, maps, classes, boxes, *_ = computed
    assert {level: x.shape for level, x in maps.items()} == {level: (2, *hw, 8) for level, hw in PLACES.items()}
    assert {f"p{level}": (8, 2**level) for level in PLACES} == tiny.feature_info
    anchors = tiny.anchors(64, 96)
    assert outputs["classes"].shape == (2, 6 * 129, 5) and outputs["boxes"].shape == (2, 6 * 129, 4)
    assert outputs["classes"].dtype == outputs["boxes"].dtype == jnp.float32 == anchors.dtype
    outputs, classes, boxes = jax.tree.map(np.asarray, (outputs, classes, boxes))
    first = 0
    for level, (height, width) in PLACES.items():
        for y, x, a in ((0, 0, 0), (height - 1, 0, 2), (height // 2, width - 1, 5)):
            i = first + (y * width + x) * 6 + a
            for found, there in ((outputs["classes"], classes), (outputs["boxes"], boxes)):
                n = found.shape[-1]
                np.testing.assert_allclose(found[:, i], there[level][:, y, x, n * a : n * a + n], rtol=1e-5, atol=1e-6)
            centre = (anchors[i, :2] + anchors[i, 2:]) / 2
            np.testing.assert_allclose(centre, [(x + 0.5) * 2**level, (y + 0.5) * 2**level], atol=1e-4)
            side = 4 * 2**level * 2 ** (a // 3 / 2)
            factors = ((1, 1), (1.4, 0.7), (0.7, 1.4))[a % 3]
            np.testing.assert_allclose(anchors[i, 2:] - anchors[i, :2], np.multiply(side, factors), rtol=1e-5)
        first += height * width * 6


def test_detect_is_the_call_in_evaluation_and_its_detections(tiny, computed):
    """Although the module was in training: no statistic has changed."""
    *_, (found, again), statistics = computed
    for name in ("boxes", "scores", "classes", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    assert found.boxes.shape == (2, 7, 4) and bool(found.valid.all()) and (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, 0.01, atol=0.005)  # the prior
    before = nnx.to_pure_dict(nnx.state(tiny, nnx.BatchStat))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, statistics))


def test_a_detectors_call_is_pure_and_can_be_exported(tiny):
    """functional() with a function of the model, and a program for batches of any size."""
    apply, params, statistics = functional(tiny, lambda model, x, **_: model.detect(x))
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 64, 96, 3"), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: apply(params, statistics, x)[0]), platforms=["cpu"])(shape)
    assert [out.shape[1:] for out in program.out_avals] == [(100, 4), (100,), (100,), (100,)]
    whole = jax.export.export(jax.jit(lambda x: functional(tiny)[0](params, statistics, x)[0]))(shape)
    assert {out.shape[1:] for out in whole.out_avals} == {(774, 5), (774, 4)}


def learnt(model, images):
    """Return the gradient of a random function of the outputs, and which statistics a call in training changes."""
    apply, params, statistics = functional(model)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(1, len(model.anchors(64, 96)), 9)), jnp.float32)

    def loss(params):
        outputs, stats = apply(params, statistics, images, train=True)
        both = jnp.concatenate([outputs["classes"], outputs["boxes"]], -1)
        return (weights * both).sum(), stats

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
    moved = jax.tree.map(lambda before, after: bool((before != after).any()), statistics, stats)
    return {".".join(str(k.key) for k in path): g for path, g in jax.tree_util.tree_leaves_with_path(gradients)}, moved


def test_training_reaches_every_parameter(images):
    gradients, moved = learnt(around_strided(min_level=5, max_level=6), images)
    assert all(jax.tree.leaves(moved)) and {"fpn", "class_head", "box_head"} <= moved.keys()
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        # A bias right before a batch norm is subtracted with the mean.
        assert np.abs(gradient).max() > 0 or path.endswith("conv1.bias"), path


@pytest.mark.thorough
def test_training_with_a_backbone(images):
    """Residual branches start at 0, and learn after the scale of their last batch norm does."""
    gradients, moved = learnt(build(), images)
    assert all(jax.tree.leaves(moved))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        in_branch = path.startswith("backbone.stage") and ("conv" in path or "bn1" in path)
        assert np.abs(gradient).max() > 0 or path.endswith("conv1.bias") or in_branch, path
    assert np.abs(gradients["backbone.stage3.block1.bn2.scale"]).max() > 0


def test_modes():
    model = around_strided()
    for switch, training in ((model.train, True), (model.eval, False)):
        switch()
        assert model.trains(None) == training
        for module in modules(model).values():
            if isinstance(module, BatchNorm):
                assert module.use_running_average != training
    assert not around_strided().trains(None)


def test_frozen_norms():
    """In flavor torchvision those of the backbone; gates of AW keep batch norms of their own, which learn."""
    model = shapes("retinanet_aw_resnet18", **TINY, flavor="torchvision")
    parts = modules(model)
    norms = {path for path, module in parts.items() if isinstance(module, BatchNorm)}
    gates = {path for path in norms if ".conv" in path}
    assert gates and norms - gates == {*model.frozen_parts}
    assert all(parts[path].frozen and parts[path].epsilon == 0 for path in norms - gates)
    assert not any(parts[path].frozen or parts[path].epsilon == 0 for path in gates)
    assert summarize(model).frozen == sum(2 * parts[path].num_features for path in norms - gates)
    stem = shapes(**TINY, frozen_stem=True)
    assert stem.frozen_parts == ("backbone.stem",) and isinstance(modules(stem)["backbone.stem"], nnx.Conv)
    assert around_strided().frozen_parts == ()


@pytest.mark.thorough
def test_frozen_norms_stay_in_training(images):
    model = build("retinanet_aw_resnet18", flavor="torchvision")
    _, moved = learnt(model, images)
    for path, value in jax.tree_util.tree_leaves_with_path(moved):
        module = ".".join(str(part.key) for part in path[:-1])
        assert value == (module not in model.frozen_parts), module


def test_the_backbone_of_each_flavor():
    """tensorflow/tpu's pads the pooling after the map only and starts each residual at 0."""
    ours, theirs = build(batch_norm_momentum=0.9), build(flavor="torchvision", batch_norm_epsilon=1e-5)
    assert (ours.backbone.pool_padding, theirs.backbone.pool_padding) == ("same", "symmetric")
    for model, start in ((ours, 0), (theirs, 1)):
        np.testing.assert_array_equal(model.backbone.stage2.block1.bn2.scale[...], start)
        np.testing.assert_array_equal(model.backbone.stage2.block1.bn1.scale[...], 1)
    for path, module in modules(ours).items():
        if isinstance(module, BatchNorm):
            assert (module.momentum, module.epsilon, module.frozen) == (0.9, 1e-4, False), path
    deeper = build("retinanet_resnet50", blocks=(1, 1, 1, 1), zero_init_residual=True, flavor="torchvision")
    assert not deeper.backbone.stage1.block1.bn3.scale[...].any() and deeper.backbone.stage1.block1.bn2.scale[...].all()
    assert build(pool_padding="symmetric").backbone.pool_padding == "symmetric"


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


def test_levels_are_an_option(images):
    model = shapes(**TINY, min_level=2, max_level=5)
    assert [*model.feature_info] == ["p2", "p3", "p4", "p5"]
    places = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3
    assert model.anchors(64, 96).shape == (6 * places, 4)
    graph, state = nnx.split(model)
    outputs = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, images)
    assert outputs["classes"].shape == (2, 6 * places, 5)
    alone = shapes(**TINY, min_level=5, max_level=5)
    assert [*alone.feature_info] == ["p5"] and alone.fpn.given == (5,)


@pytest.mark.parametrize("flavor", ["tpu", "torchvision"])
@pytest.mark.parametrize("size", [(50, 75), (1, 1), (128, 256)])
def test_every_size_has_as_many_anchors_as_outputs(flavor, size):
    """Also where the coarsest stride does not divide the sides: both paddings halve a side upwards."""
    model = shapes(**TINY, flavor=flavor)
    graph, state = nnx.split(model)
    shape = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    outputs = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, shape)
    assert outputs["boxes"].shape == (1, *model.anchors(*size).shape)


@pytest.mark.parametrize(("size", "count"), [(512, 32_736), (640, 51_150)])
def test_the_papers_numbers_of_anchors(size, count):
    model = shapes(**{**TINY, "image_size": size})
    assert len(model.anchors(size, size)) == count
    if size == 640:
        assert len(shapes(**TINY, anchor_scales=3).anchors(640, 640)) == 76_725


def test_images_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match=r"images must have shape \[b, h, w, in_channels=3\]"):
        tiny(jnp.zeros((1, 64, 96, 4)))
    with pytest.raises(ValueError, match="rngs"):
        build(drop_path_rate=0.5)(jnp.zeros((1, 64, 96, 3)), train=True)


def test_bfloat16_computes_low_and_returns_float32():
    model = shapes(**TINY, dtype=jnp.bfloat16)
    graph, state = nnx.split(model)
    run = lambda s, x: (lambda m: (m(x), m.features(x)))(nnx.merge(graph, s))  # noqa: E731
    outputs, maps = jax.eval_shape(run, state, jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32))
    assert {x.dtype for x in outputs.values()} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}


SMALL_BACKBONES = [
    name
    for name in list_models(task="detection")
    if name.endswith(("resnet18", "resnet50", "mnasnet_100")) and "wide" not in name
]


@pytest.mark.few(2, thorough=12)
@pytest.mark.parametrize("name", SMALL_BACKBONES[::-1])
def test_every_kind_of_backbone(name):
    """Only shapes run, in training: every parameter is read, so that none is left of the backbone's classifier."""
    sizes = dict(width=0.25) if "mnasnet" in name else dict(width=16, blocks=(1, 1, 1, 1))
    attention = dict(num_heads=1, upsilon=0.25) if "aa_" in name or "fully" in name else {}
    model = shapes(name, **{**TINY, **sizes, **attention} if "blocks" in sizes else {**OTHERS, **sizes, **attention})
    apply, params, statistics = functional(model)
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    run = lambda p, s, x: apply(p, s, x, train=True)  # noqa: E731
    jaxpr, (outputs, stats) = jax.make_jaxpr(run, return_shape=True)(params, statistics, images)
    assert outputs["classes"].shape == (1, 774, 5) and jax.tree.structure(stats) == jax.tree.structure(statistics)
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    assert all(id(v) in read for v in jaxpr.jaxpr.invars)
