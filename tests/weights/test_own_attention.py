"""Tests of networks of this library that start from others of this library, attention included."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.ops import resize_relative_table
from aa_flax.weights import WeightsError, init_from_plain, read_state_dict, save
from aa_flax.weights.arrays import fill_arrays, flat_arrays

HEADS = dict(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)
TINY = dict(depth=10, widen_factor=1, num_classes=7, image_size=(8, 12), **HEADS)
SMALL = dict(num_classes=7, image_size=(64, 96))
# Of each family, networks small enough, with attention in several stages.
FAMILIES = {
    "aa_wide_resnet28_10": TINY,
    "aa_resnet18": dict(blocks=(1, 1, 1, 1), **HEADS, **SMALL),
    "aa_mnasnet_100": dict(width=0.25, num_heads=2, min_key_depth_per_head=4, **SMALL),
    "aw_aa_resnet18": dict(blocks=(1, 1, 1, 1), **HEADS, **SMALL),
    "aa_resnet50": dict(blocks=(1, 1, 1, 1), **HEADS, **SMALL),
    "fully_attentional_resnet50": dict(blocks=(1, 1, 1, 1), num_heads=2, **SMALL),
    "patchconvnet_s60_multi": dict(width=16, depth=2, num_classes=7, image_size=(32, 48)),
}


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


def distinct(model, seed=3):
    """Give every array different values, so that a permutation fails the test; return them."""
    rng = np.random.default_rng(seed)
    fill_arrays(model, {path: rng.uniform(0.1, 0.9, value.shape) for path, value in flat_arrays(model).items()})
    return arrays(model)


def build(name, **options):
    return create_model(name, **{**FAMILIES.get(name, TINY), **options}, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def tiny():
    """Return the arrays of an augmented WRN-10-1, all distinct; and the network."""
    model = build("aa_wide_resnet28_10")
    return distinct(model), model


def is_table(path):
    return path.endswith(("rel_height", "rel_width"))


@pytest.mark.few(0, thorough=4)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_starts_from_its_own_kind(name):
    """The same network, one with other classes, and one for other images."""
    model = build(name)
    state = distinct(model)
    same = build(name)
    report = init_from_plain(same, state, source="aa_flax")
    assert {*report.loaded} == {*state} and not report.partial and not report.unused
    assert all((value == state[path]).all() for path, value in arrays(same).items())
    size = (16, 8) if FAMILIES[name] is TINY else (48, 128)
    other = build(name, num_classes=3, image_size=size)
    report = init_from_plain(other, state, source="aa_flax")
    assert {*report.new} >= {"head.kernel", "head.bias"} and not report.partial
    assert {*report.new} <= {"head.kernel", "head.bias", "pooling.tokens"}
    after = arrays(other)
    for path, value in after.items():
        if path in report.resized:
            rows = (state[path].shape[0], value.shape[0])
            assert is_table(path) and report.resized[path] == rows and rows[0] != rows[1]
            assert f"resized  {path}: {rows[0]} to {rows[1]} rows" in str(report)
            expected = resize_relative_table(jnp.asarray(state[path]), (rows[1] + 1) // 2)
            np.testing.assert_array_equal(value, expected)
        elif path not in report.new:
            np.testing.assert_array_equal(value, state[path])
            assert path in report.loaded
    attends = "aa_" in name or name.startswith("fully")
    assert bool(report.resized) == attends == any(path.endswith("qkv.kernel") for path in report.loaded)


@pytest.mark.few(0)
@pytest.mark.parametrize("method", ["linear", "clamp", "error"])
def test_the_network_starts_as_the_other_one_at_that_size(rng, method):
    """A layer's own `table_resize` makes its tables; a larger map with "error", which no call could ask, is linear."""
    first = build("aa_wide_resnet28_10", table_resize="linear" if method == "error" else method)
    state = distinct(first)
    larger = build("aa_wide_resnet28_10", image_size=(16, 20), table_resize=method)
    assert init_from_plain(larger, state, source="aa_flax").resized
    images = jnp.asarray(rng.normal(size=(1, 16, 20, 3)), jnp.float32)
    np.testing.assert_array_equal(larger.stage1(larger.stem(images)), first.stage1(first.stem(images)))


def test_layers_that_attend_in_one_network_only(tiny):
    """A layer takes attention where the weights have it, and starts as from a plain one elsewhere."""
    state, _ = tiny
    few = build("aa_wide_resnet28_10", attention_stages=(3,))
    lacking = {"stage1.block1.conv1.kernel", "stage2.block1.conv1.kernel"}
    with pytest.raises(
        WeightsError,
        match=r"in 2 layers that are plain here, such as stage1.block1.conv1; 2 .*\n  stage1.*: missing .*\n  stage2",
    ):
        init_from_plain(few, state, source="aa_flax")  # the filters that attention stands for are nowhere
    state = distinct(few)
    assert lacking <= state.keys()
    model = build("aa_wide_resnet28_10")
    report = init_from_plain(model, state, source="aa_flax", zero_output=True)
    after = arrays(model)
    attention = ("qkv.kernel", "out.kernel", "rel_height", "rel_width")
    assert {*report.new} == {f"stage{s}.block1.conv1.{part}" for s in (1, 2) for part in attention}
    assert {path.rpartition(".")[0] for path in report.partial} == {
        f"stage{s}.block1.{module}" for s in (1, 2) for module in ("conv1.conv", "bn2")
    }
    assert (after["stage1.block1.conv1.out.kernel"] == 0).all() and (after["stage3.block1.conv1.out.kernel"] != 0).all()
    np.testing.assert_array_equal(after["stage3.block1.conv1.qkv.kernel"], state["stage3.block1.conv1.qkv.kernel"])


def test_a_layer_too_narrow_to_attend_is_a_plain_one(tiny):
    """Its path has `.conv`, and all filters of the layer."""
    narrow = build("aa_wide_resnet28_10", attention_stages=(1, 3), upsilon=0.1)
    state = distinct(narrow)
    assert "stage1.block1.conv1.conv.kernel" in state and "stage1.block1.conv1.qkv.kernel" not in state
    model = build("aa_wide_resnet28_10", attention_stages=(1,))
    kept = arrays(model)["stage1.block1.conv1.conv.kernel"].shape[-1]
    state = {path: value for path, value in state.items() if not path.startswith("stage3.block1.conv1")}
    state["stage3.block1.conv1.kernel"] = arrays(model)["stage3.block1.conv1.kernel"]
    report = init_from_plain(model, state, source="aa_flax")
    expected = state["stage1.block1.conv1.conv.kernel"][..., :kept]
    np.testing.assert_array_equal(arrays(model)["stage1.block1.conv1.conv.kernel"], expected)
    assert "stage1.block1.conv1.qkv.kernel" in report.new


def test_tables_that_one_network_does_not_have(tiny):
    state, _ = tiny
    without = build("aa_wide_resnet28_10", position="none")
    report = init_from_plain(without, state, source="aa_flax")
    assert all(map(is_table, report.unused)) and len(report.unused) == 6 and not report.new
    relative = build("aa_wide_resnet28_10")
    report = init_from_plain(relative, arrays(without), source="aa_flax")
    assert {*report.new} == {path for path in state if is_table(path)}


@pytest.mark.parametrize("change", [dict(upsilon=0.5), dict(kappa=0.25), dict(num_heads=4), dict(position="coordconv")])
def test_attention_of_another_shape_is_an_error(tiny, change):
    state, _ = tiny
    model = build("aa_wide_resnet28_10", **change)
    before = arrays(model)
    with pytest.raises(WeightsError, match=r"stage1.block1.conv1.(qkv.kernel|rel_height): shape .* expected"):
        init_from_plain(model, state, source="aa_flax")
    assert all((value == before[path]).all() for path, value in arrays(model).items())


def test_other_heads_that_no_shape_tells(tmp_path):
    """Without tables the shapes of attention with other heads are the same; the card of the file tells."""
    depths = dict(position="none", kappa=0.5, min_key_depth_per_head=2)
    save(build("aa_wide_resnet28_10", **depths), tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    model = build("aa_wide_resnet28_10", **depths, num_heads=4)
    with pytest.raises(WeightsError, match=r"3 problems:\n  stage1.block1.conv1: 2 heads in the weights, 4 here\n"):
        init_from_plain(model, state, source="aa_flax")
    assert not init_from_plain(build("aa_wide_resnet28_10", **depths), state, source="aa_flax").new


def test_biases_of_attention_may_be_missing(tiny):
    state, _ = tiny
    model = build("aa_wide_resnet28_10", attention_bias=True)
    report = init_from_plain(model, state, source="aa_flax")
    assert report.new and all(path.endswith(".bias") for path in report.new)


def test_files_and_parts(tmp_path, tiny):
    """From a file, and into the backbone of another network, under the names of the whole."""
    _, network = tiny
    save(network, tmp_path / "w.safetensors")

    class Detector(nnx.Module):
        def __init__(self):
            self.backbone = build("aa_wide_resnet28_10", num_classes=0, image_size=(8, 16))
            self.box = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    model = Detector()
    report = init_from_plain(model, read_state_dict(tmp_path / "w.safetensors"), source="aa_flax", init_part="backbone")
    assert {*report.new} == {"box.kernel", "box.bias"} and {*report.unused} == {"head.kernel", "head.bias"}
    assert report.resized["backbone.stage1.block1.conv1.rel_width"] == (23, 31)
    assert "backbone.stage1.block1.conv1.rel_height" in report.loaded  # of the same length
    back = build("aa_wide_resnet28_10")
    report = init_from_plain(back, arrays(model), source="aa_flax")
    assert {*report.new} == {"head.kernel", "head.bias"} and {*report.unused} == {"box.kernel", "box.bias"}
    assert report.notes == ("names without their prefix 'backbone.'",)


def test_a_run_starts_from_an_augmented_network(tmp_path, tiny, tiny_config):
    from aa_flax.config.schema import resolve
    from aa_flax.training.first_weights import take_weights

    state, network = tiny
    save(network, tmp_path / "w.safetensors")
    tiny_config.model.init_from = str(tmp_path / "w.safetensors")
    model = build("aa_wide_resnet28_10", num_classes=3, image_size=(12, 12), in_channels=1)
    with pytest.raises(ValueError, match="'model.init_from': .*adapt_stem=True takes a first convolution"):
        take_weights(model, resolve(tiny_config))
    tiny_config.model.init_adapt_stem = True
    report = take_weights(model, resolve(tiny_config))
    assert {*report.new} == {"head.kernel", "head.bias"} and len(report.resized) == 3
    path = "stage2.block1.conv1.qkv.kernel"
    np.testing.assert_array_equal(arrays(model)[path], state[path])
    tiny_config.model.init_key = "state_dict_ema"
    with pytest.raises(ValueError, match="'model.init_from': .*has no entry 'state_dict_ema'"):
        take_weights(model, resolve(tiny_config))


@pytest.mark.few
@pytest.mark.parametrize("variant", ["theta", "theta_plus"])
def test_gather_excite_for_another_map_starts_fresh(variant):
    """Its kernel has the size of the map, and no resizing of it is defined."""
    options = dict(depth=10, widen_factor=1, num_classes=7, variant=variant)
    first = create_model("ge_wide_resnet28_10", **options, image_size=(8, 8), rngs=nnx.Rngs(0))
    state = distinct(first)
    model = create_model("ge_wide_resnet28_10", **options, image_size=(8, 12), rngs=nnx.Rngs(0))
    report = init_from_plain(model, state, source="aa_flax")
    assert {*report.new} == {path for path in state if ".recalibration." in path} and report.new
    same = create_model("ge_wide_resnet28_10", **options, image_size=(8, 8), rngs=nnx.Rngs(0))
    assert not init_from_plain(same, state, source="aa_flax").new
