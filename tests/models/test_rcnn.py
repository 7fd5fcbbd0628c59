"""Tests of the calls of Faster and Mask R-CNN, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax.layers.norm import BatchNorm
from aa_flax.models import MaskRCNN, create_model, list_models
from aa_flax.models.rcnn_options import MaskRCNNOptions
from aa_flax.models.stages import FeatureInfo
from aa_flax.ops.levels import join_levels
from aa_flax.training import functional

SIZES = dict(fpn_width=8, rpn_width=8, box_head_width=12, mask_head_width=8, mask_head_depth=1)
FEW = dict(proposals_per_level=20, proposals_per_level_in_training=30, proposals=12, proposals_in_training=17)
TINY = dict(width=8, blocks=(1, 1, 1, 1), num_classes=5, image_size=(64, 96), **SIZES, **FEW)


def tiny(name):
    return {key: value for key, value in TINY.items() if "mask" in name or "mask" not in key}


def shapes(name="mask_rcnn_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **{**tiny(name), **options}, rngs=nnx.Rngs(0)))


class Strided(nnx.Module):
    """A backbone without parameters: every fourth, eighth, sixteenth and thirty-second pixel."""

    image_size, in_channels = (64, 96), 3
    feature_info = {f"s{stride}": FeatureInfo(3, stride) for stride in (4, 8, 16, 32)}  # noqa: RUF012

    def features(self, images, *, train=None, rngs=None):
        return {name: images[:, :: info.stride, :: info.stride] for name, info in self.feature_info.items()}


def around_strided(**options):
    options = MaskRCNNOptions(**{**SIZES, **FEW, "frozen_stages": 0, **options})
    return MaskRCNN(options, Strided(), num_classes=5, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(2).normal(size=(2, 64, 96, 3)), jnp.float32)


SHAPE = np.array([[64, 96], [41, 50]], np.float32)


@pytest.fixture(scope="module")
def computed(images):
    """Return, of one program with the network in training, what each method gives in evaluation."""
    graph, state = nnx.split(around_strided(score_threshold=0.12))

    def all_of_it(state, x):
        model = nnx.merge(graph, state, copy=True)
        model.train()
        maps = model.features(x, train=False)
        outputs = model(x, sizes=SHAPE, train=False)
        regions = model.box_outputs(maps, outputs["proposals"])
        found = model.detections(regions, outputs["proposals"], outputs["valid"], 64, 96, sizes=SHAPE, max_detections=7)
        masks = model.mask_outputs(maps, found.boxes)
        detected = model.detect(x, sizes=SHAPE, max_detections=7)
        trained = model.propose(maps, 64, 96, train=True)
        return maps, outputs, regions, found, masks, detected, trained

    return jax.jit(all_of_it)(state, images)


def test_a_call_gives_proposals(computed):
    maps, outputs, regions, *_, trained = computed
    assert {name: x.shape[1:3] for name, x in maps.items()} == {
        "p2": (16, 24),
        "p3": (8, 12),
        "p4": (4, 6),
        "p5": (2, 3),
        "p6": (1, 2),
    }
    np.testing.assert_array_equal(maps["p6"], maps["p5"][:, ::2, ::2])
    anchors = 3 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
    assert outputs["objectness"].shape == (2, anchors) and outputs["proposal_deltas"].shape == (2, anchors, 4)
    assert outputs["proposals"].shape == (2, 12, 4) and outputs["valid"].shape == (2, 12)
    assert trained["proposals"].shape == (2, 17, 4)
    assert regions["classes"].shape == (2, 12, 5) and regions["boxes"].shape == (2, 12, 5, 4)
    boxes = np.asarray(outputs["proposals"])
    assert (boxes >= 0).all() and bool(outputs["valid"].all())
    for box, (height, width) in zip(boxes, SHAPE, strict=True):
        assert (box[:, 2] <= width).all() and (box[:, 3] <= height).all() and (box[:, 2] == width).any()


def test_detect_is_its_parts(computed):
    """Boxes first, then the mask of each box's class; background is never found."""
    *_, found, masks, detected, _ = computed
    for name in ("boxes", "scores", "classes", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(detected, name))
    assert found.masks is None and detected.masks.shape == (2, 7, 28, 28)
    classes, valid = np.asarray(detected.classes), np.asarray(detected.valid)
    assert valid.any() and (classes[valid] >= 1).all() and (classes[~valid] == -1).all()
    for i, k in zip(*np.nonzero(valid), strict=True):
        expected = 1 / (1 + np.exp(-np.asarray(masks)[i, k, :, :, classes[i, k]].astype(np.float64)))
        np.testing.assert_allclose(detected.masks[i, k], expected, rtol=1e-5, atol=1e-6)
    assert not np.asarray(detected.masks)[~valid].any()


@pytest.mark.thorough
def test_training_reaches_every_parameter(images):
    """Through all heads, and through none of the boxes that they are asked for."""
    model = around_strided(rpn_depth=2, fpn_norm=True, batch_norm_epsilon=1e-5)
    given = jnp.asarray([[[3.0, 4, 30, 50], [40, 2, 90, 60], [0, 0, 96, 64]]] * 2)

    def outputs(model, x, boxes, *, train, rngs):
        maps = model.features(x, train=train)
        proposed = model.propose(maps, 64, 96, train=train)
        every = jnp.concatenate([boxes, proposed["proposals"]], 1)
        return proposed, model.box_outputs(maps, every), model.mask_outputs(maps, every)

    apply, params, statistics = functional(model, outputs)

    def loss(params, boxes):
        found, stats = apply(params, statistics, images, boxes, train=True)
        keys = iter(jax.random.split(jax.random.key(0), 20))
        real = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((jax.random.normal(next(keys), x.shape) * x).sum() for x in real), stats

    (gradients, to_boxes), moved = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, given)
    assert not np.asarray(to_boxes).any()
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path
    assert all(
        (before != after).any() for before, after in zip(*map(jax.tree.leaves, (statistics, moved)), strict=True)
    )


def test_what_is_frozen():
    """The stem, its norm, stage 1 whole, and all other norms of the backbone; gates of later stages are not."""
    model = shapes("faster_rcnn_aw_resnet18")
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    assert model.frozen_parts[:3] == ("backbone.stem", "backbone.bn", "backbone.stage1")
    norms = {path for path, module in modules.items() if isinstance(module, BatchNorm)}
    later = {path for path in norms if not path.startswith(("backbone.bn", "backbone.stage1."))}
    gates = {path for path in later if ".conv" in path}
    assert {*model.frozen_parts[3:]} == later - gates and gates
    assert all(modules[path].frozen and modules[path].epsilon == 0 for path in later - gates)
    assert not any(modules[path].frozen or modules[path].epsilon == 0 for path in gates)
    with pytest.raises(ValueError, match="frozen_stages=1 needs a backbone with a stem and as many stages, which Stri"):
        around_strided(frozen_stages=1)


@pytest.mark.thorough
def test_stages_of_other_backbones_are_frozen():
    two = shapes("faster_rcnn_bam_resnet18", frozen_stages=2, frozen_norms=False, batch_norm_epsilon=1e-5)
    stages = ("stem", "bn", "stage1", "stage2", "attention1", "attention2")
    assert two.frozen_parts == tuple(f"backbone.{name}" for name in stages)
    none = shapes("faster_rcnn_resnet18", frozen_stages=0, frozen_norms=False, batch_norm_epsilon=1e-5)
    assert none.frozen_parts == ()
    mnasnet = dict(width=0.25, blocks=None)
    small = {key: value for key, value in {**tiny("faster"), **mnasnet}.items() if value is not None}
    around = nnx.eval_shape(lambda: create_model("faster_rcnn_mnasnet_100", **small, rngs=nnx.Rngs(0)))
    assert around.frozen_parts[:3] == ("backbone.stem", "backbone.stem_bn", "backbone.stage1")
    with pytest.raises(ValueError, match="frozen_stages=5 needs"):
        shapes(frozen_stages=5)


@pytest.mark.thorough
def test_a_batch_of_any_size_can_be_exported():
    """Detection too, with boxes and masks; under strict promotion of types."""
    model = around_strided()
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 64, 96, 3"), jnp.float32)
    apply, params, statistics = functional(model, lambda model, x, **_: model.detect(x))
    with jax.numpy_dtype_promotion("strict"):
        program = jax.export.export(jax.jit(lambda x: apply(params, statistics, x)[0]), platforms=["cpu"])(shape)
    assert [out.shape[1:] for out in program.out_avals] == [(100, 4), (100,), (100,), (100,), (100, 28, 28)]


@pytest.mark.thorough
def test_bfloat16_computes_low_and_returns_float32(images):
    model = shapes(dtype=jnp.bfloat16)
    graph, state = nnx.split(model)

    def run(state, x):
        model = nnx.merge(graph, state)
        maps, boxes = model.features(x), jnp.zeros((2, 3, 4))
        return maps, (model(x), model.box_outputs(maps, boxes), model.mask_outputs(maps, boxes), model.detect(x))

    maps, outputs = jax.eval_shape(run, state, images)
    assert {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}
    kinds = {jnp.dtype(jnp.float32), jnp.dtype(bool), jnp.dtype(jnp.int32)}
    assert {x.dtype for x in jax.tree.leaves(outputs)} == kinds


def test_levels_are_joined_on_a_mesh_with_types(rng):
    """Level, row, column, anchor; the batch stays split over the devices."""
    maps = [jnp.asarray(rng.normal(size=(2, h, w, 6)), jnp.float32) for h, w in ((3, 5), (2, 1))]
    expected = np.concatenate([np.asarray(x).reshape(2, -1, 2) for x in maps], 1)
    np.testing.assert_array_equal(join_levels(maps, 2), expected)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        split = jax.device_put(maps, NamedSharding(mesh, PartitionSpec("data")))
        joined = jax.jit(lambda maps: join_levels(maps, 2))(split)
    np.testing.assert_array_equal(joined, expected)
    assert joined.sharding.spec[0] == "data"


def test_images_and_sizes_that_do_not_fit(images):
    graph, state = nnx.split(around_strided())

    def called(images, **options):
        return jax.eval_shape(lambda s, x: nnx.merge(graph, s).detect(x, **options), state, images)

    assert called(images, sizes=SHAPE.tolist()).boxes.shape == (2, 100, 4)
    with pytest.raises(ValueError, match=r"images must have shape \[b, h, w, in_channels=3\]"):
        called(jnp.zeros((1, 64, 96, 4)))
    with pytest.raises(ValueError, match=r"sizes must be height and width of each of 2 images, got shape \(1, 2\)"):
        called(images, sizes=[[64, 96]])
    with pytest.raises(ValueError, match=r"score_threshold must lie in \[0, 1\], got 2"):
        called(images, score_threshold=2.0)


SMALL_BACKBONES = [
    name
    for name in list_models("mask_rcnn_*")
    if name.endswith(("resnet18", "resnet50", "mnasnet_100")) and "wide" not in name
]


@pytest.mark.few(0, thorough=4)
@pytest.mark.parametrize("name", SMALL_BACKBONES[::-1])
def test_every_kind_of_backbone(name):
    """Only shapes run, in training: every parameter is read, so that none is left of the backbone's classifier."""
    sizes = dict(width=0.25) if "mnasnet" in name else dict(width=16, blocks=(1, 1, 1, 1))
    attention = dict(num_heads=1, upsilon=0.25) if "aa_" in name or "fully" in name else {}
    others = {key: value for key, value in TINY.items() if key not in ("width", "blocks")}
    model = nnx.eval_shape(lambda: create_model(name, **others, **sizes, **attention, rngs=nnx.Rngs(0)))
    apply, params, statistics = functional(model, lambda model, x, **_: model.every_head(x))
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    run = lambda p, s, x: apply(p, s, x)[0]  # noqa: E731
    jaxpr, outputs = jax.make_jaxpr(run, return_shape=True)(params, statistics, images)
    assert outputs["classes"].shape == (1, 12, 5) and outputs["masks"].shape == (1, 12, 28, 28, 5)
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    assert all(id(v) in read for v in jaxpr.jaxpr.invars)
