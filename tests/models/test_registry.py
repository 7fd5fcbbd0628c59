import jax
import pytest
from flax import nnx

from aa_flax.models import create_model, list_models
from aa_flax.models.factories import plain_conv
from aa_flax.models.registry import model_options

NAMES = ["aa_wide_resnet28_10", "ge_wide_resnet28_10", "se_wide_resnet28_10", "wide_resnet28_10"]


def test_list_models_matches_patterns():
    assert set(NAMES) <= set(list_models())
    assert list_models("aa_wide*") == ["aa_wide_resnet28_10"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", NAMES)
def test_create_model_can_be_traced_and_has_the_models_own_defaults(name):
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    assert model.image_size == (32, 32)
    assert model.head.kernel.shape == (640, 100)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))


def test_overrides_reach_the_network():
    make = lambda **o: nnx.eval_shape(lambda: create_model("aa_wide_resnet28_10", rngs=nnx.Rngs(0), **o))  # noqa: E731
    model = make(num_classes=7, image_size=(20, 28), in_channels=1, depth=16, widen_factor=2, num_heads=4, upsilon=0.5)
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
        (dict(rngs=0), r"rngs must be an nnx.Rngs, for example nnx.Rngs\(0\), got 0"),
        (dict(num_classes="ten"), "num_classes must be a whole number, got 'ten'"),
        (dict(in_channels=1.5), "in_channels must be a whole number, got 1.5"),
        (dict(dtype="int32"), "dtype must be a floating-point type, got 'int32'"),
        (dict(upsilon=0.5), "resnet18 has no option 'upsilon'; aa_mnasnet_075, .* and others have it"),
        (dict(kidn="basic"), "resnet18 has no option 'kidn'; did you mean 'kind'"),
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
    hash(graph)  # what jit keeps programs by


def test_options_are_listed_without_those_of_create_model():
    options = model_options("se_wide_resnet28_10")
    assert {"depth", "reduction", "dropout_rate"} <= set(options)
    assert not {"rngs", "num_classes", "self", "recalibration"} & set(options)
    assert "conv" in options and "conv" not in model_options("aa_wide_resnet28_10")


def test_a_block_takes_any_convolution():
    """The seam that later layers use: a network with the user's own layer, without touching the network."""

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
