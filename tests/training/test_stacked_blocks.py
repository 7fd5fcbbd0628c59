"""Tests that training stacked blocks equals training the same blocks one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.config.schema import OptimizerConfig
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models import create_model
from aa_flax.models.stacked import lies_stacked
from aa_flax.tasks import make_task
from aa_flax.training import functional, resolve
from aa_flax.training.freezing import leave_frozen, mask
from aa_flax.training.initial import build_model
from aa_flax.training.optimizers import decays, optimizer
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout, place_batch

DEPTH = 3


def params_of(name="patchconvnet_s60", **options):
    options = {"width": 8, "depth": DEPTH, "num_classes": 5, "image_size": 32, **options}
    return functional(create_model(name, **options, rngs=nnx.Rngs(0)))[1]


def dotted(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_what_lies_stacked():
    assert lies_stacked("trunk.blocks.gamma") and lies_stacked("backbone.trunk.blocks.norm.scale")
    for path in ("trunk.gamma", "stage1.block1.conv1.kernel", "mytrunk.blocks.gamma", "trunk.blocks2.gamma", "trunk"):
        assert not lies_stacked(path)
    stacked = {path for path in dotted(params_of()) if lies_stacked(path)}
    assert stacked == {path for path in dotted(params_of()) if path.startswith("trunk.")}


def unstacked(params):
    """Return the same parameters with each block under a name of its own, without a stack."""
    blocks = {f"block{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["trunk"]["blocks"]) for i in range(DEPTH)}
    return {**{name: part for name, part in params.items() if name != "trunk"}, "stage1": blocks}


@pytest.mark.thorough
def test_lambs_steps_are_those_of_the_blocks_one_by_one(rng):
    """LAMB uses the norm of each layer, and the norms of the blocks are far apart here."""
    config = OptimizerConfig(
        name="lamb", learning_rate=0.1, warmup=0.0, clip_norm=1.0, weight_decay=0.1, weight_decay_mode="decoupled"
    )
    chain = optimizer(config, 10, 5)
    scales = jnp.asarray([0.1, 1.0, 30.0])
    params = params_of()
    some = {name: params["trunk"]["blocks"][name] for name in ("gamma", "pointwise1", "depthwise")}
    scaled = jax.tree.map(lambda p: p * scales.reshape(DEPTH, *[1] * (p.ndim - 1)), some)
    params = {"head": params["head"], "trunk": {"blocks": scaled}}
    trees = [params, unstacked(params)]
    states = [chain.init(tree) for tree in trees]
    update = jax.jit(chain.update, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster
    for _ in range(2):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), trees[0])
        for i, own in enumerate((grads, unstacked(grads))):
            updates, states[i] = update(own, states[i], trees[i])
            trees[i] = optax.apply_updates(trees[i], updates)
    found, expected = dotted(unstacked(jax.device_get(trees[0]))), dotted(trees[1])
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)


def test_what_decay_spares():
    """Decay excludes by name, because biases and norms of stacked blocks are matrices, and tokens are too."""
    exclude = OptimizerConfig().weight_decay_exclude
    for name in ("patchconvnet_s60", "patchconvnet_s60_multi"):
        params = params_of(name)
        decayed = {path for path, shrinks in dotted(decays(params, exclude)).items() if shrinks}
        assert decayed == {path for path in dotted(params) if path.endswith(".kernel")}
        # The authors' code excludes parameters of one dimension, and the tokens.
        one_dimension = {path for path, leaf in dotted(params).items() if leaf.ndim - lies_stacked(path) == 1}
        assert {path for path in dotted(params) if path not in decayed} == one_dimension | {"pooling.tokens"}


def test_a_frozen_trunk_stays():
    params = params_of()
    frozen = {path for path, still in dotted(mask(params, ("trunk",))).items() if still}
    assert frozen == {path for path in dotted(params) if path.startswith("trunk.blocks.")}
    chain = leave_frozen(optax.sgd(0.1), ("trunk",))
    updates, _ = chain.update(params, chain.init(params), params)
    for path, leaf in dotted(updates).items():
        assert path not in frozen or not np.any(leaf)
    assert np.any(updates["pooling"]["tokens"])


def config_of(**parallel):
    options = dict(width=32, depth=4, norm="batch", drop_path_rate=0.2, layer_scale_init=0.3)
    return resolve(
        {
            "batch_size": 8,
            "model": {"name": "patchconvnet_s60", "options": options},
            "data": {"crop": "none"},
            "optimizer": {"name": "lamb", "weight_decay_mode": "decoupled", "learning_rate": 0.01, "warmup": 0.0},
            "parallel": parallel,
        }
    )


PREPARED = Preprocessing((16, 16), 3, (0.5,) * 3, (0.25,) * 3, tuple("01234"), "float32", "")


def test_where_a_split_state_lies():
    """FSDP splits the longest axis that devices divide, which need not be the depth; small arrays stay whole."""
    config = config_of(fsdp=True)
    _, params, _ = functional(nnx.eval_shape(lambda: build_model(config, make_task(config, PREPARED))))
    shardings = Layout.of(config).of_state(params)["trunk"]["blocks"]
    assert shardings["pointwise1"]["kernel"].shard_shape((4, 32, 32)) == (4, 32, 4)
    assert shardings["gamma"].shard_shape((4, 32)) == (4, 32)


@pytest.mark.slow
def test_a_step_with_the_state_split_over_eight_devices():
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 16, 16, 3), np.uint8), "label": np.arange(8, dtype=np.int32) % 5}
    after = []
    for devices, fsdp in ((1, False), (8, True)):
        config = config_of(fsdp=fsdp)
        layout = Layout.of(config, jax.devices()[:devices])
        program = Program.of(config, PREPARED, layout, 5)
        with jax.set_mesh(layout.mesh):
            state = program.train_step(program.new_state(), place_batch(batch, layout))
        assert int(state.skipped) == 0
        after.append(dotted({"params": state.params, "statistics": state.batch_stats, "window": state.window}))
    for path, leaf in after[0].items():
        other = np.asarray(after[1][path])
        np.testing.assert_allclose(other, leaf, rtol=2e-4, atol=1e-5 + 2e-4 * np.abs(leaf).max(), err_msg=path)


def test_options_reach_a_run():
    config = config_of(batch_norm_groups=2)
    model = nnx.eval_shape(lambda: build_model(config, make_task(config, PREPARED)))
    assert model.trunk.blocks.norm.groups == 2 and model.trunk.drop_path_rates == (0.2,) * 4
