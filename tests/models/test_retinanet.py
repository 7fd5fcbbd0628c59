"""Tests of RetinaNet's calls, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.layers.norm import BatchNorm
from aa_flax.models import RetinaNet, create_model, list_models
from aa_flax.models.backbones import norms_of_its_own
from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.models.stages import FeatureInfo
from aa_flax.training import functional

OTHERS = dict(fpn_width=16, head_width=12, head_depth=1, num_classes=5, image_size=(64, 96))
TINY = dict(width=8, blocks=(1, 1, 1, 1), **OTHERS)


def build(name="retinanet_resnet18", **options):
    return create_model(name, **{**TINY, **options}, rngs=nnx.Rngs(0))


def shapes(name="retinanet_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def modules(model):
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}


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
    stages = ("backbone.stem", "backbone.bn", "backbone.stage1")
    later = {path for path in norms - gates if not path.startswith(stages[1:])}
    assert gates and model.frozen_parts[:3] == stages and {*model.frozen_parts[3:]} == later
    assert all(parts[path].frozen and parts[path].epsilon == 0 for path in norms - gates)
    assert not any(parts[path].frozen or parts[path].epsilon == 0 for path in gates)
    model = shapes("retinanet_aw_resnet18", **TINY, flavor="torchvision", frozen_stages=0)
    assert {*model.frozen_parts} == norms - gates
    assert summarize(model).frozen == sum(2 * parts[path].num_features for path in norms - gates)
    stem = shapes(**TINY, frozen_stem=True)
    assert stem.frozen_parts == ("backbone.stem",) and isinstance(modules(stem)["backbone.stem"], nnx.Conv)
    assert around_strided().frozen_parts == ()
    with pytest.raises(ValueError, match="frozen_stem=True needs a backbone with a stem, and Strided has none"):
        around_strided(frozen_stem=True)


@pytest.mark.thorough
def test_frozen_norms_stay_in_training(images):
    model = build("retinanet_aw_resnet18", flavor="torchvision")
    _, moved = learnt(model, images)
    for path, value in jax.tree_util.tree_leaves_with_path(moved):
        module = ".".join(str(part.key) for part in path[:-1])
        norms = {f"backbone.{path}" for path, _ in norms_of_its_own(model.backbone)}
        assert value == (module not in norms), module  # those of the gates of frozen stages, the training's step stops


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


@pytest.mark.few(2)
@pytest.mark.parametrize("flavor", ["tpu", "torchvision"])
@pytest.mark.parametrize("size", [(50, 75), (1, 1), (128, 256)])
def test_every_size_has_as_many_anchors_as_outputs(flavor, size):
    """Also where the coarsest stride does not divide the sides: both paddings halve a side upwards."""
    model = shapes(**TINY, flavor=flavor)
    graph, state = nnx.split(model)
    shape = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    outputs = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, shape)
    assert outputs["boxes"].shape == (1, *model.anchors(*size).shape)


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
    for name in list_models("retinanet_*")
    if name.endswith(("resnet18", "resnet50", "mnasnet_100")) and "wide" not in name
]


@pytest.mark.few(2, thorough=6)
@pytest.mark.parametrize("name", SMALL_BACKBONES[::-1])
def test_every_kind_of_backbone(name):
    """Only shapes run, in training: every parameter is read, so that none is left of the backbone's classifier."""
    sizes = dict(width=0.25) if "mnasnet" in name else dict(width=16, blocks=(1, 1, 1, 1))
    attention = dict(num_heads=1, upsilon=0.25) if "aa_" in name or "fully" in name else {}
    model = shapes(name, **{**TINY, **sizes, **attention} if "blocks" in sizes else {**OTHERS, **sizes, **attention})
    apply, params, statistics = functional(model)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    run = lambda p, s, x: apply(p, s, x, train=True)  # noqa: E731
    jaxpr, (outputs, stats) = jax.make_jaxpr(run, return_shape=True)(params, statistics, images)
    assert outputs["classes"].shape == (2, 774, 5) and jax.tree.structure(stats) == jax.tree.structure(statistics)
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    assert all(id(v) in read for v in jaxpr.jaxpr.invars)
