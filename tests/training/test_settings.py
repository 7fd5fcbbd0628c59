"""Tests that a run does not go on in silence with settings of JAX that change its random draws."""

import jax
import pytest
from run_files import state_with_many_blocks

from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.training import RunDirectory
from aa_flax.training.settings import mark_run


@pytest.fixture
def run(tmp_path):
    """Return the directory of a run that has begun, with a checkpoint."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    mark_run(directory)
    state = state_with_many_blocks()
    with Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(state)
    return directory


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_default_prng_impl", "rbg"), ("jax_enable_x64", True), ("jax_threefry_partitionable", False)],
)
def test_a_run_that_goes_on_with_other_settings_says_so(run, caplog, name, value):
    before = getattr(jax.config, name)
    mark_run(run)
    assert not caplog.records
    jax.config.update(name, value)
    try:
        mark_run(run)
        mark_run(run)  # the record stays that of the birth
    finally:
        jax.config.update(name, before)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        f"{name} was {before!r} and is {value!r}"
    ] * 2


def test_a_run_without_a_checkpoint_takes_the_settings_of_its_new_start(tmp_path, caplog):
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.mark(jax={"jax_enable_x64": "another"})
    mark_run(directory)
    assert directory.read_mark()["jax"]["jax_enable_x64"] == jax.config.jax_enable_x64 and not caplog.records
