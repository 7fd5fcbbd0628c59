"""Tests of the authors' checkpoints of PatchConvNet: names, values, and logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.training import functional
from aa_flax.training.state import create_state
from aa_flax.weights import WeightsError, init_from_plain, load, load_torch_state_dict, save, to_torch_state_dict
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.rows import counterpart
from aa_flax.weights.tables import table_of

from . import official_patchconvnet as official

WIDTH, DEPTH = 16, 3
NAMES = ("patchconvnet_s60", "patchconvnet_s60_multi")


def build(name, classes=5, depth=DEPTH, **options):
    options = {"width": WIDTH, "num_classes": classes, "image_size": (32, 48), **options}
    return create_model(name, depth=depth, rngs=nnx.Rngs(0), **options)


@pytest.fixture
def theirs(rng):
    """Return a function that makes a random state dict of the authors' network of the same kind."""

    def make(name, classes=5, depth=DEPTH):
        return official.random_state_dict(rng, WIDTH, depth, classes, per_class=name.endswith("multi"))

    return make


@pytest.mark.few(2)
@pytest.mark.parametrize(("name", "size"), [(NAMES[0], (1, 1)), (NAMES[0], (2, 3)), (NAMES[1], (3, 2))])  # of the map
def test_logits_equal_the_official_networks(rng, theirs, name, size):
    """float32 errors are well below 1e-4; a tanh GELU causes errors of 1e-3, a swapped axis of order one."""
    model, state = build(name), theirs(name)
    load_torch_state_dict(model, state, source="deit")
    x = rng.normal(size=(2, 16 * size[0], 16 * size[1], 3)).astype(np.float32)
    want = official.logits(state, x.transpose(0, 3, 1, 2))
    assert np.abs(want).max() > 0.5 and np.abs(want[0] - want[1]).max() > 0.02
    np.testing.assert_allclose(jax.jit(model)(x), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(theirs, name):
    model, state = nnx.eval_shape(lambda: build(name)), theirs(name)
    load_torch_state_dict(model, state, source="deit")
    block = model.trunk.block(2)
    np.testing.assert_array_equal(block.gamma[...], state["blocks.2.gamma_1"])
    np.testing.assert_array_equal(block.pointwise2.kernel[...], state["blocks.2.attn.qkv_pos.5.weight"][:, :, 0, 0].T)
    back = to_torch_state_dict(model, source="deit")
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("name", [*NAMES, "patchconvnet_b120"])
def test_the_keys_are_the_authors(name):
    """The networks have full size; only shapes are compared, and nothing is computed."""
    width, depth = (768, 120) if "b120" in name else (384, 60)
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    hollow = nnx.merge(graph, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state))
    found = {key: value.shape for key, value in hollow_arrays(hollow).items()}
    assert found == official.shapes(width, depth, 1000, per_class=name.endswith("multi"))


def hollow_arrays(model):
    """Return the result of `to_torch_state_dict` with views of a single zero as arrays."""
    found = {}
    for path, value in flat_arrays(model).items():
        found |= counterpart(table_of(model, "deit"), path, value.shape).to_theirs(value)
    return found


def test_one_error_lists_everything(theirs):
    name = "patchconvnet_s60"
    model, state = build(name), theirs(name)
    before = {path: np.asarray(value) for path, value in flat_arrays(model).items()}
    del state["blocks.1.norm1.bias"], state["cls_token"]
    state["blocks.2.gamma_1"] = state["blocks.2.gamma_1"][:3]
    state |= {"blocks.3.gamma_1": np.zeros(WIDTH, np.float32), "pos_embed": np.zeros(3, np.float32)}
    with pytest.raises(WeightsError) as error:
        load_torch_state_dict(model, state, source="deit")
    summary, *lines = str(error.value).split("\n  ")
    assert summary == "deit's weights do not fit this PatchConvNet; 5 problems:"
    assert sorted(lines) == [
        "blocks.1.norm1.bias: missing (for trunk.blocks.norm.bias)",
        "blocks.2.gamma_1: shape (3,), expected (16,) (for trunk.blocks.gamma)",
        "blocks.3.gamma_1: the network has no such array",
        "cls_token: missing (for pooling.tokens)",
        "pos_embed: the network has no such array",
    ]
    for path, value in flat_arrays(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_what_the_authors_do_not_have():
    with pytest.raises(WeightsError, match="no key table for PatchConvNet from 'timm'; sources: 'deit'"):
        to_torch_state_dict(build("patchconvnet_s60"), source="timm")
    with pytest.raises(WeightsError, match=r"blocks.0.norm1.running_mean: missing \(for trunk.blocks.norm.mean\)"):
        model = build("patchconvnet_s60", norm="batch")
        state = to_torch_state_dict(build("patchconvnet_s60"), source="deit")
        load_torch_state_dict(model, state, source="deit")


@pytest.mark.few(5)
@pytest.mark.parametrize("source", ["deit", "aa_flax"])
@pytest.mark.parametrize("classes", [4, 7])
@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_classes_starts_fresh(theirs, name, classes, source):
    """Neither fewer nor more classes than the five of the checkpoint take over a part of its classifier."""
    state = theirs(name)
    if source == "aa_flax":
        plain = build(name)
        load_torch_state_dict(plain, state, source="deit")
        state = {path: np.asarray(value) for path, value in flat_arrays(plain).items()}
    model = build(name, classes)
    fresh = {path: np.asarray(value) for path, value in flat_arrays(model).items()}
    report = init_from_plain(model, state, source=source)
    new = {"head.kernel", "head.bias"} | ({"pooling.tokens"} if name.endswith("multi") else set())
    assert set(report.new) == new and not report.partial
    assert {*report.loaded} == fresh.keys() - new
    assert all(key.startswith(("head.", "cls_token", "pooling.tokens")) for key in report.unused)
    for path in new:
        np.testing.assert_array_equal(flat_arrays(model)[path], fresh[path])


def test_a_token_for_each_class_from_a_single_one(theirs):
    model = build("patchconvnet_s60_multi")
    report = init_from_plain(model, theirs("patchconvnet_s60"), source="deit")
    assert set(report.new) == {"head.kernel", "head.bias", "pooling.tokens"}
    assert "trunk.blocks.gamma" in report.loaded and "pooling.query.kernel" in report.loaded
    assert set(report.unused) == {"head.weight", "head.bias", "cls_token"}


def test_another_depth_is_an_error(theirs):
    for depth, message in ((DEPTH + 1, "blocks.3.gamma_1: one more than"), (DEPTH - 1, "blocks.2.gamma_1: missing")):
        with pytest.raises(WeightsError, match=message):
            init_from_plain(build("patchconvnet_s60"), theirs("patchconvnet_s60", depth=depth), source="deit")


@pytest.mark.parametrize("name", NAMES)
def test_our_own_files(tmp_path, theirs, name):
    model = build(name, drop_path_rate=0.1, norm="batch")
    rng = np.random.default_rng(3)
    values = {path: rng.normal(size=value.shape) for path, value in flat_arrays(model).items()}
    fill_arrays(model, values)
    save(model, tmp_path / "w.safetensors")
    again, card = load(tmp_path / "w.safetensors")
    assert card["model"] == name and card["num_classes"] == 5
    for path, value in flat_arrays(again).items():
        np.testing.assert_array_equal(value, flat_arrays(model)[path])
    assert again.trunk.drop_path_rates == (0.1,) * DEPTH


def test_checkpoints(rng, tmp_path):
    _, *shapes = functional(nnx.eval_shape(lambda: build("patchconvnet_s60", depth=12, norm="batch")))
    params, batch_stats = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    state = dataclasses.replace(create_state(params, batch_stats, optax.adam(0.1), ema=True), step=jnp.int32(7))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
