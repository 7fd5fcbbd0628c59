"""What tests read of a run's directory, and states to fill one with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.manifest import NAME
from aa_flax.runs.metrics import TIMING, read_metrics
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout
from aa_flax.training.state import create_state


def final_state(path):
    directory = RunDirectory(path)
    config = directory.read_config()
    program = Program.of(config, directory.read_preprocessing(), Layout.of(config), 4, shapes=True)
    with Checkpoints(directory.checkpoints) as checkpoints:
        return checkpoints.restore(program.state_shapes)


def rows(path):
    """Return the rows of the log without values that depend on the machine."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(RunDirectory(path).log)]


def assert_same(a, b):
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def arrays(folder):
    """Return the largest file of a checkpoint, which holds arrays."""
    return max((f for f in folder.rglob("*") if f.is_file() and f.name != NAME), key=lambda f: f.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def state_with_many_blocks(metrics=None):
    """Return a state with twelve blocks of one shape.

    A restore that sorted block10 before block2 would permute them without an error.
    """
    params = {f"block{i}": {"kernel": jnp.full((2, 3), float(i))} for i in range(1, 13)}
    batch_stats = {f"block{i}": {"mean": jnp.full((3,), -float(i))} for i in range(1, 13)}
    chain = optax.chain(optax.trace(0.9), optax.adam(0.1))
    state = create_state(params, batch_stats, chain, ema=True, metrics=metrics)
    momentum = optax.TraceState(trace=jax.tree.map(lambda x: 10 * x, params))
    return dataclasses.replace(
        state, step=jnp.asarray(7, jnp.int32), opt_state=(momentum, *state.opt_state[1:]), params=params
    )
