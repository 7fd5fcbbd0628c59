"""Tests of `replay` on a run that diverges."""

import json

import forked
import jax
import numpy as np
import pytest

from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectoryError
from aa_flax.training import RunDirectory, resolve
from aa_flax.training.loop import train
from aa_flax.training.replay import replay
from aa_flax.training.setup import set_up
from aa_flax.training.window import NonFiniteError


@pytest.fixture(scope="module")
def diverged(tmp_path_factory, data_dir):
    """Return the directory and the bad steps of a run whose parameters overflow in its second epoch."""
    folder = tmp_path_factory.mktemp("diverged")
    from aa_flax.config.schema import default_config

    config = default_config()
    config.epochs, config.batch_size, config.eval_batch_size, config.log_every_steps = 4, 16, 24, 3
    config.model.options = dict(depth=10, widen_factor=1, num_heads=2, min_key_depth_per_head=3)
    config.data.data_dir, config.data.train_split, config.data.eval_split = data_dir, "train[:70]", "test[:50]"
    config.data.image_size, config.data.crop_padding = 8, 1
    config.max_nonfinite_steps = 2
    config.optimizer.schedule, config.optimizer.warmup = "constant", 0.3  # the fifth step is too large
    config.optimizer.learning_rate = 1e38
    with pytest.raises(NonFiniteError, match=f"aa_flax.replay --workdir={folder} looks at the step") as caught:
        train(resolve(config), folder)
    return RunDirectory(folder), caught.value.bad_steps


@pytest.mark.thorough
def test_the_step_is_the_one_that_was_left_out(diverged):
    directory, bad_steps = diverged
    assert len(bad_steps) >= 3 and directory.read_failure() == bad_steps
    found = replay(directory)
    assert found.step == min(bad_steps)
    assert not np.isfinite(found.loss) or not np.isfinite(found.gradient_norm)
    assert found.bad_gradients and not found.bad_parameters
    assert len(found.losses) == len(found.indices) == len(found.titles) == len(found.images) == 16
    setup = set_up(directory.read_config(), directory)
    names, source = setup.preprocessing.class_names, setup.train_source
    assert [names[source[index]["label"]] for index in found.indices] == found.titles


@pytest.mark.thorough
def test_a_good_step_is_bit_for_bit_what_the_run_computed(tiny_config, tmp_path):
    tiny_config.stop_after_epoch = 2
    train(resolve(tiny_config), tmp_path)
    directory = RunDirectory(tmp_path)
    found = replay(directory, 4)
    assert found.replayed_from == 4 and not found.bad_gradients and not found.bad_examples
    again = replay(directory, 6)
    assert again.replayed_from == 4
    setup = set_up(directory.read_config(), directory)
    with Checkpoints(directory.checkpoints) as checkpoints:
        state = checkpoints.restore(setup.program.new_state(), 4)
    gradient = jax.jit(setup.program.gradient)
    with setup.train_batches(4) as batches, jax.set_mesh(setup.layout.mesh):
        batch = next(batches)
        loss = gradient(state, {name: batch[name] for name in ("image", "label")}).loss
    assert float(loss) == pytest.approx(found.loss, rel=1e-6)
    with pytest.raises(RunDirectoryError, match="did not diverge; name a step"):
        replay(directory)
    with pytest.raises(RunDirectoryError, match="has steps 0 to 15, not 16"):
        replay(directory, 16)


@pytest.mark.thorough
def test_the_command(diverged):
    directory, bad_steps = diverged
    done = forked.run("-m", "aa_flax.replay", f"--workdir={directory.path}", f"--step={bad_steps[0]}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"step {bad_steps[0]}, replayed from step 4")
    printed = json.loads(lines[-1])
    assert printed["step"] == bad_steps[0] and len(printed["indices"]) == 16
    assert list((directory.path / "replay").glob(f"step-{bad_steps[0]}-index-*.png"))
