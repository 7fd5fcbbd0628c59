"""Tests of networks as parts of others: without classifier, `built_from`, accepted images, weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.models.functional import functional
from aa_flax.weights import (
    WeightsError,
    init_from_plain,
    load,
    load_torch_state_dict,
    save,
    to_torch_state_dict,
)
from aa_flax.weights.arrays import flat_arrays

WIDE = dict(depth=10, widen_factor=1)
AUGMENTED = dict(num_heads=2, upsilon=0.25, min_key_depth_per_head=3)
SMALL = {  # options, and the width of the pooled features
    "aw_se_resnet18": (dict(blocks=(1, 1, 1, 1)), 512),
    "resnet50": (dict(blocks=(1, 1, 1, 1), pooling="attention", pooling_width=24), 24),
    "aa_wide_resnet28_10": ({**WIDE, **AUGMENTED}, 64),
    "mnasnet_100": (dict(width=0.25, dropout_rate=0.5), 1280),
    "patchconvnet_s60": (dict(width=16, depth=2), 16),
    "patchconvnet_s60_multi": (dict(width=16, depth=2), 16),
}
SIZE = (32, 48)


def build(name, **changes):
    options = {**SMALL[name][0], "image_size": SIZE, "in_channels": 2, "rngs": nnx.Rngs(0), **changes}
    return create_model(name, **options)


@pytest.mark.few
@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_is_the_classifier_without_its_head(name):
    """The backbone has the same arrays without those of the head, and its call returns [b, width]; only shapes run."""
    whole, backbone = (nnx.eval_shape(lambda n=n: build(name, num_classes=n)) for n in (5, 0))
    shapes = [{path: leaf.shape for path, leaf in flat_arrays(model).items()} for model in (whole, backbone)]
    if name.endswith("_multi"):  # one token for each class, or one token without classes
        assert shapes[0].pop("pooling.tokens") == (5, 16) and shapes[1].pop("pooling.tokens") == (1, 16)
    assert backbone.head is None and {*shapes[0]} - {*shapes[1]} == {"head.kernel", "head.bias"}
    assert shapes[1].items() <= shapes[0].items()
    apply, params, stats = functional(backbone)
    images = jax.ShapeDtypeStruct((3, *SIZE, 2), jnp.float32)
    for train in (False, True):
        pooled, _ = jax.eval_shape(lambda p, s, x, t=train: apply(p, s, x, train=t), params, stats, images)
        assert pooled.shape == (3, SMALL[name][1])


@pytest.mark.thorough
def test_what_it_gives_is_what_the_classifier_is_given(rng):
    images = jnp.asarray(rng.normal(size=(2, 9, 14, 3)), jnp.float32)
    whole, backbone = (create_model("wide_resnet28_10", **WIDE, num_classes=n, rngs=nnx.Rngs(0)) for n in (5, 0))
    pooled = backbone(images)
    np.testing.assert_allclose(pooled, backbone.features(images)["stage3"].mean((1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(whole(images), whole.head(pooled), rtol=1e-5, atol=1e-6)
    attention = create_model("patchconvnet_s60", width=8, depth=1, num_classes=0, rngs=nnx.Rngs(0))
    images = jnp.asarray(rng.normal(size=(2, 16, 32, 3)), jnp.float32)
    token = attention.pooling(attention.features(images)["stage1"])
    np.testing.assert_allclose(attention(images), token[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.few(2)
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet28_10", "mnasnet_100", "patchconvnet_s60"])
def test_sizes_and_images_that_do_not_fit(name):
    with pytest.raises(ValueError, match=r"num_classes must be at least 0, .* got -1 and 3"):
        nnx.eval_shape(lambda: create_model(name, num_classes=-1, rngs=nnx.Rngs(0)))
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    for dtype in (np.uint8, np.int32):
        images = jax.ShapeDtypeStruct((2, 32, 48, 3), dtype)
        for call in (lambda m, x: m(x), lambda m, x: m.features(x)):
            with pytest.raises(TypeError, match=rf"normalised .*got {np.dtype(dtype)};.*\(images / 255 - mean\) / std"):
                jax.eval_shape(lambda s, x, call=call: call(nnx.merge(graph, s), x), state, images)


def test_built_from_holds_all_arguments():
    given = dict(num_classes=3, image_size=(9, 14), in_channels=2, dtype=jnp.bfloat16, kappa=0.5, **WIDE, **AUGMENTED)
    model = nnx.eval_shape(lambda: create_model("aa_wide_resnet28_10", **given, rngs=nnx.Rngs(0)))
    arguments = model.built_from.arguments()
    assert arguments == {"name": "aa_wide_resnet28_10", **given, "param_dtype": jnp.float32}
    again = nnx.eval_shape(lambda: create_model(**arguments, rngs=nnx.Rngs(0)))
    assert again.built_from == model.built_from and hash(again.built_from) == hash(model.built_from)
    assert nnx.split(again)[0] == nnx.split(model)[0]
    default = nnx.eval_shape(lambda: create_model("wide_resnet28_10", rngs=nnx.Rngs(0))).built_from
    assert (default.num_classes, default.image_size, default.in_channels) == (100, (32, 32), 3)
    assert default.dtype == default.param_dtype == jnp.float32 and default.options == ()
    assert {field.name for field in dataclasses.fields(default)} >= {"name", "options"}


# Weights


class Detector(nnx.Module):
    """The smallest network that has another network as its backbone."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.boxes = nnx.Linear(64, 4, rngs=nnx.Rngs(1))


def arrays(model):
    return {path: np.asarray(leaf) for path, leaf in flat_arrays(model).items()}


def changed(rng, state):
    return {key: rng.uniform(0.5, 1.5, value.shape).astype(np.float32) for key, value in state.items()}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "source", "head"),
    [
        ("mnasnet_100", "timm", {"classifier.weight", "classifier.bias"}),
        ("patchconvnet_s60", "deit", {"head.weight", "head.bias"}),
    ],
)
def test_a_classifiers_file_serves_its_backbone(rng, name, source, head):
    """The keys of the classifier may be left over; every other key must be used, or the error names it."""
    whole, backbone = build(name, num_classes=5), build(name, num_classes=0)
    state = changed(rng, to_torch_state_dict(whole, source=source))
    load_torch_state_dict(backbone, state, source=source)
    load_torch_state_dict(whole, state, source=source)
    for path, value in arrays(backbone).items():
        np.testing.assert_array_equal(value, arrays(whole)[path], err_msg=path)
    written = to_torch_state_dict(backbone, source=source)
    assert state.keys() - written.keys() == head
    fresh = build(name, num_classes=0)
    assert set(init_from_plain(fresh, state, source=source).unused) == head
    with pytest.raises(WeightsError, match="1 problems:\n  head.extra.weight: the network has no such array"):
        load_torch_state_dict(backbone, {**state, "head.extra.weight": np.zeros(2, np.float32)}, source=source)


def test_a_file_with_a_layer_for_each_class(rng):
    whole, backbone = build("patchconvnet_s60_multi", num_classes=1), build("patchconvnet_s60_multi", num_classes=0)
    state = changed(rng, to_torch_state_dict(build("patchconvnet_s60_multi", num_classes=5), source="deit"))
    state["cls_token"] = state["cls_token"][:, :1]
    load_torch_state_dict(backbone, state, source="deit")
    np.testing.assert_array_equal(backbone.pooling.tokens[...], state["cls_token"][0])
    assert whole.head is not None


def test_a_backbone_is_saved_and_loaded(tmp_path):
    model = build("aa_wide_resnet28_10", num_classes=0)
    save(model, tmp_path / "backbone.safetensors")
    again, card = load(tmp_path / "backbone.safetensors")
    assert card["num_classes"] == 0 and again.head is None and again.built_from == model.built_from
    for path, value in arrays(again).items():
        np.testing.assert_array_equal(value, arrays(model)[path])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_weights_of_a_classifier_for_a_part(rng, num_classes):
    plain = create_model("wide_resnet28_10", **WIDE, num_classes=5, in_channels=2, rngs=nnx.Rngs(2))
    state = changed(rng, arrays(plain))
    model = Detector(build("aa_wide_resnet28_10", num_classes=num_classes))
    alone = build("aa_wide_resnet28_10", num_classes=num_classes)
    boxes = np.asarray(model.boxes.kernel[...])
    report = init_from_plain(model, state, source="aa_flax", zero_output=True, init_part="backbone")
    expected = init_from_plain(alone, state, source="aa_flax", zero_output=True)
    for path, value in arrays(alone).items():
        np.testing.assert_array_equal(arrays(model)[f"backbone.{path}"], value, err_msg=path)
    np.testing.assert_array_equal(model.boxes.kernel[...], boxes)
    assert report.loaded == tuple(f"backbone.{path}" for path in expected.loaded) and report.loaded
    assert report.partial == {f"backbone.{path}": counts for path, counts in expected.partial.items()}
    assert {*report.new} - {"boxes.kernel", "boxes.bias"} == {f"backbone.{path}" for path in expected.new}
    assert set(report.unused) == {"head.kernel", "head.bias"}
    assert sorted([*report.loaded, *report.partial, *report.new]) == sorted(arrays(model))


def test_a_part_that_is_not_there():
    model = Detector(build("aa_wide_resnet28_10", num_classes=0))
    with pytest.raises(WeightsError, match="init_part: Detector has no part 'back'; its parts: backbone, boxes"):
        init_from_plain(model, {}, source="aa_flax", init_part="back")
    with pytest.raises(WeightsError, match="there is no key table for Linear"):
        init_from_plain(model, {"kernel": np.zeros(3, np.float32)}, source="timm", init_part="boxes")


# Attention that is asked for


ATTENDING = ("aa_resnet18", "aa_resnet50", "aa_wide_resnet28_10", "aa_mnasnet_075", "aw_aa_resnet18")


@pytest.mark.few
@pytest.mark.parametrize("name", ATTENDING)
def test_every_augmented_network_attends_wherever_it_may(name):
    assert nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0))).without_attention == ()


def test_a_network_none_of_whose_layers_attends():
    words = (
        r"no layer of aa_wide_resnet28_10 would attend: upsilon=0.1 .* num_heads=8, value_rounding='floor' "
        r"\(stage1.block1.conv1 has 16 channels, key depth 160 and value depth 0; .*stage3.block1.conv1 has 64 channels"
    )
    with pytest.raises(ValueError, match=words):
        nnx.eval_shape(lambda: create_model("aa_wide_resnet28_10", **WIDE, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"attention_stages=\(4,\) names none of its stages"):
        nnx.eval_shape(lambda: create_model("aw_aa_wide_resnet28_10", attention_stages=[4], rngs=nnx.Rngs(0)))


def test_a_network_that_loses_some_says_which(caplog):
    options = dict(depth=10, widen_factor=3, upsilon=0.1, num_heads=8, in_channels=5)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            model = nnx.eval_shape(lambda: create_model("aa_wide_resnet28_10", **options, rngs=nnx.Rngs(0)))
    assert model.without_attention == ("stage1.block1.conv1",)
    assert not model.stage1.block1.conv1.attends and model.stage2.block1.conv1.attends
    said = [record.getMessage() for record in caplog.records if "that were to attend do not" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("1 of 3 layers of aa_wide_resnet28_10")
    assert "stage1.block1.conv1 has 48 channels" in said[0]


def test_no_attention_is_fine_where_none_is_asked_for():
    for name, options in (("aa_wide_resnet28_10", dict(upsilon=0)), ("wide_resnet28_10", {})):
        model = nnx.eval_shape(lambda n=name, o=options: create_model(n, **WIDE, **o, rngs=nnx.Rngs(0)))
        assert model.without_attention == ()
