"""Tests of parts of a network that wait for some epochs, and learn then."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.config.optimizer import OptimizerConfig
from aa_flax.models import create_model
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.metrics import read_metrics
from aa_flax.training import ConfigError, default_config, resolve, train
from aa_flax.training.optimizers import in_two_groups, optimizer
from aa_flax.training.setup import set_up
from aa_flax.training.trained import load_model
from aa_flax.weights import save
from aa_flax.weights.arrays import flat_arrays

TINY = dict(depth=10, widen_factor=1)
WAITING = ("stem", "stage1", "stage2", "stage3", "bn")


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "lamb"])
def test_the_late_group_begins_as_if_training_began_then(name, rng):
    """Against two optimisers of one parameter each: the late one begins afresh, with the learning rate of the run."""
    decay = "l2" if name in ("sgd", "rmsprop") else "decoupled"
    fields = OptimizerConfig(
        name=name, learning_rate=0.1, warmup_steps=3, warmup=0.0, weight_decay_mode=decay, clip_norm=0.0
    )
    params = {each: {"kernel": jnp.asarray(rng.normal(size=(3, 2)))} for each in ("head", "stem")}
    start, total = 4, 7

    def late(tree):
        return {"head": {"kernel": False}, "stem": {"kernel": True}}

    groups = [in_two_groups(fields, total, 1, late=late, start=start, waits=waits) for waits in (True, False)]
    states = [chain.init(params) for chain in groups]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    state, expected = states[0], params
    alone = optimizer(fields, total, 1)
    head, stem = alone.init({"head": params["head"]}), None
    for step in range(total):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        if step < start:
            grads["stem"] = jax.tree.map(jnp.zeros_like, grads["stem"])  # as `stop_gradients` has it
        updates, state = groups[step >= start].update(grads, state, params)
        params = optax.apply_updates(params, updates)
        moved, head = alone.update({"head": grads["head"]}, head, {"head": expected["head"]})
        if step >= start:
            # A fresh optimiser, whose schedule alone goes on where the run is.
            stem = stem or alone.init({"stem": expected["stem"]})
            more, stem = _at(alone, stem, {"stem": grads["stem"]}, {"stem": expected["stem"]}, start)
        else:
            more = {"stem": jax.tree.map(jnp.zeros_like, expected["stem"])}
        moved = {**moved, **more}
        expected = optax.apply_updates(expected, moved)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), params, expected)


def _at(chain, state, grads, params, start):
    """Update with the counts of schedules, and these alone, shifted by `start`."""

    def shifted(by):
        def one(node):
            if isinstance(node, optax.ScaleByScheduleState):
                return node._replace(count=node.count + by)
            return node

        return lambda tree: jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState))

    updates, state = chain.update(grads, shifted(start)(state), params)
    return updates, shifted(-start)(state)


def test_both_groups_are_clipped_together():
    fields = OptimizerConfig(name="sgd", momentum=0.0, learning_rate=1.0, warmup=0.0, schedule="constant")
    fields = OptimizerConfig(**{**vars(fields), "clip_norm": 1.0, "weight_decay": 0.0})
    params = {"head": jnp.zeros(1), "stem": jnp.zeros(1)}
    chain = in_two_groups(fields, 9, 1, late=lambda tree: {name: name == "stem" for name in tree}, start=2, waits=False)
    updates, _ = chain.update({"head": jnp.full(1, 3.0), "stem": jnp.full(1, 4.0)}, chain.init(params), params)
    np.testing.assert_allclose([updates["head"][0], updates["stem"][0]], [-0.6, -0.8], rtol=1e-6)


@pytest.fixture
def config(tmp_path, data_dir):
    """Return a config of three epochs of four steps, of a network that starts from a file; the backbone waits once."""
    plain = create_model("wide_resnet28_10", **TINY, num_classes=3, in_channels=1, rngs=nnx.Rngs(5))
    save(plain, tmp_path / "plain.safetensors")
    config = default_config()
    config.epochs = 3
    config.batch_size = config.eval_batch_size = 16
    config.log_every_steps = 2
    config.data.train_split, config.data.eval_split = "train[:64]", "test[:16]"
    config.data.num_threads = 1
    config.data.data_dir, config.data.image_size, config.data.crop_padding = data_dir, 8, 1
    config.model.name, config.model.options = "wide_resnet28_10", TINY
    config.model.init_from = str(tmp_path / "plain.safetensors")
    config.model.frozen, config.model.frozen_epochs = WAITING, 1
    config.optimizer.name, config.optimizer.weight_decay_mode = "adamw", "decoupled"
    config.optimizer.learning_rate, config.optimizer.layer_decay = 1e-2, 0.8
    config.optimizer.clip_norm, config.optimizer.ema_decay = 1.0, 0.5
    return config


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


@pytest.mark.slow  # tests of finetuning stop and resume a run that thaws
def test_parts_wait_learn_then_and_the_run_resumes_bit_for_bit(config, tmp_path, capsys):
    def state(workdir):
        setup = set_up(resolve(config), RunDirectory(workdir))
        with Checkpoints(RunDirectory(workdir).checkpoints) as checkpoints:
            return setup.layout.fetched(checkpoints.restore(setup.program.state_shapes))

    straight = train(resolve(config), tmp_path / "straight")
    assert straight.setup.program.thaw_step == 4
    assert "stem, stage1, stage2, stage3, bn learn from here on too" in capsys.readouterr().out
    broken = tmp_path / "broken"
    config.stop_after_epoch = 1
    train(resolve(config), broken)
    first = set_up(resolve(config), RunDirectory(tmp_path / "other")).program
    before = arrays(first.model((first.params, first.batch_stats)))
    waited = state(broken)
    after = arrays(straight.setup.program.model((waited.params, waited.batch_stats)))
    for path, value in after.items():  # parameters and batch statistics
        assert (value == before[path]).all() == (not path.startswith("head.")), path
    config.stop_after_epoch = 2
    assert "learn from here on" not in capsys.readouterr().out
    train(resolve(config), broken)
    assert "learn from here on too" in capsys.readouterr().out
    for path, value in arrays(load_model(RunDirectory(broken))[0]).items():
        assert not (value == before[path]).all(), path
    config.stop_after_epoch = 0
    train(resolve(config), broken)
    for a, b in zip(jax.tree.leaves(state(broken)), jax.tree.leaves(state(tmp_path / "straight")), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [
        [row["loss"] for row in read_metrics(folder / "metrics.jsonl")] for folder in (broken, tmp_path / "straight")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(frozen_epochs=1), "'model.frozen_epochs' needs 'model.init_from'"),
        (dict(frozen_epochs=1, init_from="x"), "'model.frozen_epochs' needs 'model.frozen'"),
        (dict(frozen_epochs=4, init_from="x", frozen=("stem",)), r"'model.frozen_epochs' \(4\) must be below 'epochs'"),
    ],
)
def test_waiting_that_means_nothing(fields, words):
    with pytest.raises(ConfigError, match=words):
        resolve({"epochs": 4, "model": fields})
