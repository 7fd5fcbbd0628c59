import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.models import create_model, list_models, registry
from aa_flax.models.factories import AugmentedConvFactory, plain_conv
from aa_flax.models.registry import model_options
from aa_flax.typed import as_type, field_types

NAMES = ["aa_wide_resnet28_10", "ge_wide_resnet28_10", "se_wide_resnet28_10", "wide_resnet28_10"]


def test_list_models_matches_patterns():
    assert set(NAMES) <= set(list_models())
    assert list_models("aa_wide*") == ["aa_wide_resnet28_10"]
    assert list_models("nothing*") == []
    assert list_models("*wide*", task="classification") == list_models("*wide*")


@pytest.mark.few
@pytest.mark.parametrize("name", NAMES)
def test_create_model_can_be_traced_and_has_the_models_own_defaults(name):
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    assert model.image_size == (32, 32)
    assert model.head.kernel.shape == (640, 100)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))


def test_overrides_reach_the_network():
    make = lambda **o: nnx.eval_shape(lambda: create_model("aa_wide_resnet28_10", depth=16, rngs=nnx.Rngs(0), **o))  # noqa: E731
    model = make(num_classes=7, image_size=(20, 28), in_channels=1, widen_factor=2, num_heads=4, upsilon=0.5)
    assert model.head.kernel.shape == (128, 7)
    assert model.stem.kernel.shape == (3, 3, 1, 16)
    assert model.stage1.block1.conv1.rel_height.shape == (39, 20)
    assert model.stage3.block2.conv1.rel_width.shape == (13, 20)
    assert model.stage2.block2.conv1.value_depth == 32
    assert make(image_size=24).stage1.block1.conv1.rel_width.shape == (47, 20)
    assert make(attention_downsample=(2,)).stage2.block1.conv1.rel_width.shape == (15, 20)
    assert make(attention_downsample=(4, 2, 1)).stage1.block1.conv1.rel_width.shape == (15, 20)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name=None), "name must be a string"),
        (dict(rngs=0), r"rngs must be an nnx.Rngs, for example nnx.Rngs\(0\), got an object of type int"),
        (dict(dtype="foo"), "dtype must be a floating-point type, such as jnp.bfloat16, got .foo."),
        (dict(num_class=3), "resnet18 has no option .num_class.; did you mean .num_classes."),
        (dict(num_classes="ten"), "num_classes must be a whole number, got 'ten'"),
        (dict(in_channels=1.5), "in_channels must be a whole number, got 1.5"),
        (dict(dtype="int32"), "dtype must be a floating-point type, .*got 'int32'"),
        (dict(upsilon=0.5), "resnet18 has no option 'upsilon'; aa_mnasnet_075, .* and others have it"),
        (dict(kidn="basic"), "resnet18 has no option 'kidn'; did you mean 'kind'"),
        (dict(in_chans=4), "resnet18 has no option 'in_chans'; it is called in_channels here"),
        (dict(img_size=64), "resnet18 has no option 'img_size'; it is called image_size here"),
        (dict(features_only=True), r"no option 'features_only'; .* model.features\(images\), .* num_classes=0"),
        (dict(pretrained=True), "no option 'pretrained'; aa_flax.weights.load_torch_state_dict"),
        (dict(drop_rate=0.1), "no option 'drop_rate'; it is called dropout_rate here"),
        (dict(global_pool="avg"), "no option 'global_pool'; it is called pooling here, 'average' or 'attention'"),
        (dict(drop_path_rate="0.1"), "drop_path_rate must be of type float, got '0.1'"),
        (dict(drop_path_rate=True), "drop_path_rate must be of type float, got True"),
        (dict(blocks=2), "blocks must be a tuple, got 2"),
        (dict(blocks=(1, 1, 1, 0.5)), "blocks must be a tuple of int, got 0.5"),
        (dict(conv=3), "conv must be a callable .*, got 3"),
        (dict(name="wide_resnet28_10", long_skips="false"), "long_skips must be of type bool, got 'false'"),
        (dict(name="aa_resnet18", table_init=1.0), "table_init must be 'scaled', 'listing' or a callable .*, got 1.0"),
    ],
)
def test_arguments_of_another_kind(arguments, message):
    with pytest.raises(TypeError, match=message):
        create_model(**{"name": "resnet18", "rngs": nnx.Rngs(0), **arguments})


def test_a_network_remembers_how_it_was_built():
    options = dict(blocks=[1, 1, 1, 1], kappa=0.5)
    model = create_model("aa_resnet18", **options, num_classes=3, image_size=32, rngs=nnx.Rngs(0))
    assert model.built_from.name == "aa_resnet18"
    assert model.built_from.options == (("blocks", (1, 1, 1, 1)), ("kappa", 0.5))
    graph, state = nnx.split(model)
    assert nnx.merge(graph, state).built_from == model.built_from
    hash(graph)  # jit finds compiled programs by this hash


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "size", [0, (8, 0), (8, 8, 8), (8,), "8", 8.0, (8.0, 8), (None, 8), np.float32(8), np.array([8, 8]), True]
)
def test_image_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"image_size must be a whole number or \(height, width\), at least 1, got"):
        create_model("resnet18", image_size=size, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"image_size must be a whole number or \(height, width\), at least 1, got"):
        summarize("resnet18", image_size=size)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("size", [np.int64(48), (np.int32(48), np.uint8(48)), [48, 48]])
def test_image_sizes_of_numpy_are_those_of_python(size):
    for name, options in (
        ("aa_wide_resnet28_10", dict(depth=10, widen_factor=1, num_heads=2, upsilon=0.25)),
        ("patchconvnet_s60", dict(width=8, depth=2)),
    ):
        model = nnx.eval_shape(lambda: create_model(name, image_size=size, **options, rngs=nnx.Rngs(0)))  # noqa: B023
        assert model.built_from.image_size == (48, 48) and {*map(type, model.built_from.image_size)} == {int}
        assert summarize(model, image_size=size).image_shape == (48, 48, 3)


def test_timm_calls_stochastic_depth_as_this_library_does():
    for name in list_models():
        assert model_options(name)["drop_path_rate"] is float


def test_every_default_is_of_its_options_type():
    """Defaults of dataclasses and of registered names are of the types that errors and command line name."""
    for name in list_models(task="classification"):
        entry = registry._entries[name]
        for schema in (entry.options, *entry.plugs.values()):
            types = field_types(schema)
            for field in dataclasses.fields(schema):
                if field.init and field.default is not dataclasses.MISSING:
                    assert as_type(types[field.name], field.default) == field.default
        for option, value in entry.defaults.items():
            assert as_type(entry.types[option], value) == value


def test_initial_values_of_attention_can_be_chosen():
    options = dict(depth=10, widen_factor=4, num_heads=2, upsilon=0.25, image_size=(30, 34))

    def layer(**inits):
        return create_model("aa_wide_resnet28_10", **options, **inits, rngs=nnx.Rngs(0)).stage1.block1.conv1

    depth = layer().key_depth // 2
    assert depth == 20
    listing = layer(table_init="listing")
    for table in (listing.rel_height[...], listing.rel_width[...]):  # over a thousand numbers
        assert abs(float(table.mean()) - depth**-0.5) < 0.1 and abs(float(table.std()) - 1) < 0.1
    assert abs(float(layer().rel_width[...].std()) - depth**-0.5) < 0.03
    ones = layer(table_init=jax.nn.initializers.ones, attention_init=jax.nn.initializers.ones)
    for made in (ones.rel_height, ones.qkv.kernel, ones.out.kernel):
        np.testing.assert_array_equal(made[...], 1)
    assert np.abs(ones.conv.kernel[...] - 1).min() > 0
    inputs, outputs = ones.qkv.kernel.shape[-2:]
    for name, variance in (
        ("glorot_uniform", 2 / (inputs + outputs)),
        ("he_normal", 2 / outputs),
        ("lecun_normal", 1 / inputs),
    ):
        assert float(layer(attention_init=name).qkv.kernel[...].var()) == pytest.approx(variance, rel=0.15)


@pytest.mark.usefixtures("unchecked_shapes")
def test_initial_values_that_are_not_known():
    for option in ("table_init", "attention_init"):
        for make in (
            lambda o: create_model("aa_resnet18", **o, rngs=nnx.Rngs(0)),
            lambda o: built(AugmentedConvFactory(**o)),
        ):
            with pytest.raises(ValueError, match=f"{option} must be .*got 'zero'"):
                make({option: "zero"})


def built(factory):
    arrays = dict(dtype=np.float32, param_dtype=np.float32, rngs=nnx.Rngs(0))
    return factory(8, 16, 3, strides=1, map_shape=(5, 7), stage=1, **arrays)


def test_options_are_listed_without_those_of_create_model():
    options = model_options("se_wide_resnet28_10")
    assert {"depth", "reduction", "dropout_rate"} <= set(options)
    assert not {"rngs", "num_classes", "self", "recalibration"} & set(options)
    assert "conv" in options and "conv" not in model_options("aa_wide_resnet28_10")


def test_a_block_takes_any_convolution():
    """A network takes the user's own layer through a factory, without a change of the network."""

    class Doubled(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            return 2 * self.inner(x)

    seen = []

    def conv(*features, map_shape, stage, **options):
        seen.append((features, options["strides"], map_shape, stage))
        return Doubled(plain_conv(*features, map_shape=map_shape, stage=stage, **options))

    model = nnx.eval_shape(
        lambda: create_model(
            "wide_resnet28_10", depth=10, widen_factor=1, image_size=(15, 20), conv=conv, rngs=nnx.Rngs(0)
        )
    )
    assert type(model.stage2.block1.conv1) is Doubled
    assert seen == [((16, 16, 3), 1, (15, 20), 1), ((16, 32, 3), 2, (8, 10), 2), ((32, 64, 3), 2, (4, 5), 3)]


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors_suggest_what_was_meant():
    with pytest.raises(ValueError, match="no model named 'aa_wide_resnet_28_10'; did you mean 'aa_wide_resnet28_10'"):
        create_model("aa_wide_resnet_28_10", rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="aa_wide_resnet28_10 has no option 'num_head'; did you mean 'num_heads'"):
        create_model("aa_wide_resnet28_10", num_head=4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="wide_resnet28_10 has no option 'kappa'"):
        create_model("wide_resnet28_10", kappa=0.1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"attention_downsample must be one whole number .* got \(2, 1\) for stage 3"):
        create_model("aa_wide_resnet28_10", attention_downsample=(2, 1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="implementation must be one of .* got 'fast'"):
        create_model("aa_wide_resnet28_10", implementation="fast", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="depth must be 6n \\+ 4"):
        create_model("wide_resnet28_10", depth=12, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="shortcut must be one of .* got 'none'"):
        create_model("wide_resnet28_10", shortcut="none", rngs=nnx.Rngs(0))
