import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_files import arrays, flip, state_with_many_blocks

from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints


def test_twelve_equal_blocks_come_back_in_their_places(tmp_path):
    state = state_with_many_blocks()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        checkpoints.save(state)
    like = jax.tree.map(jnp.zeros_like, state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like)
        params, batch_stats = checkpoints.restore_model(like.params, like.batch_stats, ema=True)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(restored), jax.tree_util.tree_leaves_with_path(state), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
        assert a.dtype == b.dtype
    assert float(params["block10"]["kernel"][0, 0]) == 10 and float(batch_stats["block2"]["mean"][0]) == -2


def test_metrics_may_come_and_go(tmp_path):
    """A metric that the checkpoint's log window lacks starts at zero; one that is no longer measured is ignored."""
    integer, real = jnp.int32, jnp.float32
    state = state_with_many_blocks({"accuracy": integer, "gone": integer, "other": real})
    window = jax.tree.map(lambda x: x + 3, state.window)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(dataclasses.replace(state, window=window))
        like = state_with_many_blocks({"accuracy": integer, "came": real, "other": real})
        restored = checkpoints.restore(jax.tree.map(lambda x: x + 1, like))
    assert jax.tree.structure(restored) == jax.tree.structure(like)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, like)
    three, zero = {"sum": 3, "count": 3}, {"sum": 0, "count": 0}
    assert jax.tree.map(int, restored.window) == {
        "steps": 3,
        "loss": 3,
        "grad_norm": 3,
        "metrics": {"accuracy": three, "came": zero, "other": three},
    }
    assert float(restored.params["block10"]["kernel"][0, 0]) == 10


def test_averages_without_a_recorded_bias_have_none(tmp_path):
    """Older versions kept no bias: their averages began at the first weights, and go on as they are."""
    state = state_with_many_blocks()

    class Older(type(state)):
        def items(self):
            items = super().items()
            del items["training"]["ema_bias"]
            return items

    older = Older(**{field.name: getattr(state, field.name) for field in dataclasses.fields(state)})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(older)
        assert float(checkpoints.restore(state).ema_bias) == 0
        checkpoints.save(dataclasses.replace(state, ema_bias=jnp.asarray(0.25), step=jnp.asarray(9, jnp.int32)))
        assert float(checkpoints.restore(state).ema_bias) == 0.25


def test_a_network_may_not_come_and_go(tmp_path):
    state = state_with_many_blocks()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        for changed in ({**state.params, "new": state.params["block1"]}, {"block1": state.params["block1"]}):
            with pytest.raises(ValueError, match="block|new"):
                checkpoints.restore(dataclasses.replace(state, params=changed))


def test_only_the_newest_are_kept(tmp_path):
    state = state_with_many_blocks()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)))
        assert checkpoints.latest_step == 3
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_one_is_spared(tmp_path):
    """It goes when another one is spared, by the next save or when it is asked for."""
    state, chosen = state_with_many_blocks(), {}

    def save(step):
        checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)))
        checkpoints.wait()
        return saved_steps(tmp_path)

    with Checkpoints(
        tmp_path, keep=1, spared=lambda steps: chosen["step"] if chosen["step"] in steps else None
    ) as checkpoints:
        for step, best, left in ((1, 1, [1]), (2, 1, [1, 2]), (3, 1, [1, 3]), (4, 3, [3, 4])):
            chosen["step"] = best
            assert save(step) == left
        chosen["step"] = 4
        checkpoints.prune()
        assert saved_steps(tmp_path) == [4]
        assert save(5) == [4, 5]


def test_nothing_is_pruned_beside_a_checkpoint_that_may_be_damaged(tmp_path):
    state = state_with_many_blocks()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)))
    flip(arrays(tmp_path / "2"))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest_step == 1
        checkpoints.prune()
        assert saved_steps(tmp_path) == [1, 2]
        checkpoints.save(dataclasses.replace(state, step=jnp.asarray(3, jnp.int32)))
        checkpoints.wait()
        assert saved_steps(tmp_path) == [3]


def test_averaged_weights_serve_inference(tmp_path):
    state = state_with_many_blocks()
    averaged = jax.tree.map(lambda x: x + 100, state.ema)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(dataclasses.replace(state, ema=averaged))
        params, _ = checkpoints.restore_model(state.params, state.batch_stats, ema=True)
    assert float(params["block3"]["kernel"][0, 0]) == 103
