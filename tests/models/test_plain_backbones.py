"""Tests of PatchConvNet as a backbone: maps at strides 4 to 32 from a network whose maps have stride 16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.layers.norm import BatchNorm
from aa_flax.layers.plain_pyramid import PyramidOptions
from aa_flax.models import create_model, list_models, model_options, registry
from aa_flax.models.patchconvnet import PatchConvNet, PatchConvNetOptions
from aa_flax.training import functional
from aa_flax.weights import init_from_plain, to_torch_state_dict
from aa_flax.weights.arrays import flat_arrays

SMALL = dict(width=8, depth=8, layer_scale_init=0.5)
OTHERS = dict(head_width=12, num_classes=5, image_size=(64, 96))


def shapes(name, **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def backbone(**pyramid):
    options = PatchConvNetOptions(**SMALL)
    return PatchConvNet(options, num_classes=0, pyramid=PyramidOptions(**pyramid), rngs=nnx.Rngs(0))


def test_every_family_has_networks_around_it():
    """Those around the network with a token for each class would be the same."""
    prefixes = [*registry._families]
    assert {"retinanet_", "upernet_", "semantic_fpn_"} <= {*prefixes}
    sizes = ("s60", "s120", "b60", "b120", "l60", "l120")
    expected = {f"{prefix}patchconvnet_{size}" for prefix in prefixes for size in sizes}
    assert {*list_models("*_patchconvnet_*")} == expected
    for prefix in prefixes:
        options = model_options(f"{prefix}patchconvnet_s60")
        assert {"pyramid_taps", "pyramid_norm", "pyramid_tap_norm", "drop_path_rate", "unroll"} <= {*options}
        assert "norm" in options and not {"norm", "pyramid_taps"} & {*model_options(f"{prefix}resnet50")}
    assert "pyramid_taps" not in model_options("patchconvnet_s60")


def test_a_backbone_with_maps_of_its_own_makes_no_pyramid(monkeypatch):
    """Of a plain network of one's own, only families whose strides the pyramid has."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    upernet = registry._families["upernet_"]
    wider = {field: getattr(upernet, field) for field in upernet.__dataclass_fields__}
    registry.register_family(type(upernet)(**{**wider, "prefix": "wider_", "strides": (4, 64)}))
    entry = registry._entries["patchconvnet_s60"]
    own = dict(num_classes=3, image_size=(32, 32), defaults=dict(entry.defaults), pyramid=PyramidOptions)
    registry.register("mine", entry.network, entry.options, **own, strides=(16,))
    assert "upernet_mine" in list_models() and "wider_mine" not in list_models()
    registry.register("mine_too", entry.network, entry.options, **own, strides=(4, 8, 16, 32))
    assert "pyramid_taps" not in model_options("upernet_mine_too")


def test_features_are_of_the_tapped_blocks(rng):
    """Blocks 1, 3, 5 and 7 of 8; the map of stride 16 is that of the third."""
    model = backbone()
    images = jnp.asarray(rng.normal(size=(2, 32, 48, 3)), jnp.float32)
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, x):
        merged = nnx.merge(graph, state, copy=True)
        return merged.features(x), merged.block_features(x, blocks=(1, 3, 5, 7))

    maps, blocks = run(state, images)
    sizes = {"stage1": (8, 12), "stage2": (4, 6), "stage3": (2, 3), "stage4": (1, 2)}
    assert {name: x.shape for name, x in maps.items()} == {name: (2, *size, 8) for name, size in sizes.items()}
    assert {name: info.stride for name, info in model.feature_info.items()} == dict(
        zip(sizes, (4, 8, 16, 32), strict=True)
    )
    np.testing.assert_array_equal(maps["stage3"], blocks[5])
    expected = model.pyramid({level: blocks[block] for level, block in zip((2, 3, 4, 5), (1, 3, 5, 7), strict=True)})
    for level, x in expected.items():
        np.testing.assert_allclose(maps[f"stage{level - 1}"], x, rtol=1e-5, atol=1e-5)
    assert backbone(pyramid_taps=(0, 0, 7, 7))._taps == (0, 0, 7, 7)


@pytest.mark.thorough
def test_no_parameter_depends_on_the_size_of_the_images():
    sizes = [
        {
            path: leaf.shape
            for path, leaf in nnx.to_flat_state(nnx.state(shapes("upernet_patchconvnet_s60", **SMALL, **o)))
        }
        for o in ({**OTHERS}, {**OTHERS, "image_size": (256, 32)})
    ]
    assert sizes[0] == sizes[1]
    graph, state = nnx.split(shapes("semantic_fpn_patchconvnet_s60", **SMALL, **OTHERS))
    for h, w in ((64, 96), (80, 16), (16, 16)):  # 32 need not divide them
        x = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
        assert jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, x).shape == (1, h // 4, w // 4, 5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_sizes_and_taps_that_cannot_be():
    with pytest.raises(
        ValueError, match="image_size must have a height and a width that 16 divides, .*; 64×96 would do"
    ):
        shapes("upernet_patchconvnet_s60", **SMALL, image_size=(60, 100))
    with pytest.raises(ValueError, match="images must have a height and a width that 16 divides"):
        backbone().features(jnp.zeros((1, 30, 48, 3)))
    with pytest.raises(ValueError, match=r"pyramid_taps must be four numbers of blocks in their order, from 0 to 7"):
        shapes("upernet_patchconvnet_s60", **SMALL, pyramid_taps=(1, 3, 5, 8))
    with pytest.raises(ValueError, match="train=True with drop path needs rngs"):
        model = create_model(
            "upernet_patchconvnet_s60", **SMALL, **OTHERS, drop_path_rate=0.1, dropout_rate=0.0, rngs=nnx.Rngs(0)
        )
        model(jnp.zeros((1, 32, 32, 3)), train=True)


@pytest.mark.few(1)
@pytest.mark.parametrize("flavor", ["torchvision", "tpu"])
def test_a_retinanet_around_it(flavor):
    """It has no map of stride 4, and every parameter is read; the pyramid's norm is never frozen."""
    small = dict(fpn_width=16, head_width=12, head_depth=1, num_classes=5, image_size=(64, 96))
    model = shapes("retinanet_patchconvnet_s60", **SMALL, **small, flavor=flavor)
    assert [*model.backbone.feature_info] == ["stage2", "stage3", "stage4"]
    assert model.backbone.pooling is None and model.backbone.pyramid.level2_up1 is None
    apply, params, statistics = functional(model)
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    run = lambda p, s, x: apply(p, s, x, train=True)  # noqa: E731
    jaxpr, (outputs, _) = jax.make_jaxpr(run, return_shape=True)(params, statistics, x)
    assert outputs["boxes"].shape == (2, *model.anchors(64, 96).shape)
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    assert all(id(v) in read for v in jaxpr.jaxpr.invars)
    finer = shapes("retinanet_patchconvnet_s60", **SMALL, **small, flavor=flavor, min_level=2)
    norm = finer.backbone.pyramid.level2_norm
    assert isinstance(norm, BatchNorm) and (norm.frozen, norm.momentum, norm.epsilon) == (False, 0.9, 1e-5)
    assert finer.frozen_parts == ()
    normed = shapes("retinanet_patchconvnet_s60", **SMALL, **small, flavor=flavor, norm="batch")
    assert normed.frozen_parts == (("backbone.trunk.blocks.norm",) if flavor == "torchvision" else ())


@pytest.mark.thorough
def test_its_operations_are_those_of_the_backbone_and_the_pyramid():
    """The trunk has those of classification; a transposed convolution has one product for each location it gives."""
    alone = summarize("patchconvnet_s60", image_size=512)
    trunk = sum(alone.by_module[name].flops for name in ("stem", "trunk"))
    summary = summarize("upernet_patchconvnet_s60")
    places = 32 * 32
    pyramid = 2 * 384**2 * (4 * places + 16 * places + 4 * places)
    assert summary.by_module["backbone"].flops == trunk + pyramid


def test_weights_of_a_classifier_fill_it():
    """The authors' keys and this library's; what is not in them is the pyramid's, and the pooling is not used."""
    plain = create_model("patchconvnet_s60", **SMALL, num_classes=3, rngs=nnx.Rngs(5))
    own = {path: np.asarray(x) for path, x in flat_arrays(plain).items()}
    for source, given in (("deit", to_torch_state_dict(plain, source="deit")), ("aa_flax", own)):
        model = create_model("upernet_patchconvnet_s60", **SMALL, **OTHERS, rngs=nnx.Rngs(0))
        report = init_from_plain(model, given, source=source, init_part="backbone")
        found = flat_arrays(model)
        body = {path for path in own if path.startswith(("stem.", "trunk."))}
        assert {*report.loaded} == {f"backbone.{path}" for path in body} and not report.partial
        for path in body:
            np.testing.assert_array_equal(found[f"backbone.{path}"], own[path])
        assert {path.split(".")[1] for path in report.new if path.startswith("backbone.")} == {"pyramid"}
        assert any("head" in key for key in report.unused)


def test_weights_of_a_segmenter_for_other_classes():
    """Both layers for classes are new, and a network without auxiliary head leaves that one's."""
    small = dict(width=8, blocks=(1, 1, 1, 1), head_width=12, auxiliary_width=6, image_size=(64, 96))
    source = create_model("upernet_resnet18", **small, num_classes=7, rngs=nnx.Rngs(5))
    given = {path: np.asarray(x) for path, x in flat_arrays(source).items()}
    model = create_model("upernet_resnet18", **small, num_classes=5, rngs=nnx.Rngs(0))
    report = init_from_plain(model, given, source="aa_flax")
    heads = {
        f"{head}.out.{leaf}" for head in ("classifier", "auxiliary_head.classifier") for leaf in ("kernel", "bias")
    }
    assert {*report.new} == heads and {*report.loaded} == {*given} - heads
    plain = create_model("upernet_resnet18", **small, num_classes=7, auxiliary_head=False, rngs=nnx.Rngs(0))
    report = init_from_plain(plain, given, source="aa_flax")
    assert not report.new and {key.split(".")[0] for key in report.unused} == {"auxiliary_head"}
    without = {path: x for path, x in given.items() if not path.startswith("auxiliary_head")}
    report = init_from_plain(model, without, source="aa_flax")
    assert {path.split(".")[0] for path in report.new} == {"auxiliary_head", "classifier"}
