"""Tests of a run on one and on eight devices with its state placed in several ways, and of the step's collectives."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from aa_flax.analysis import hlo
from aa_flax.analysis.hlo_traffic import collectives
from aa_flax.analysis.tpu_compiler import installed
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.training import ConfigError, resolve
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout, on_these_devices, place_batch
from aa_flax.training.step import reset_window

SHAPE, CLASSES = (8, 8, 3), 5


def config_of(dtype="float32", **parallel):
    options = dict(depth=10, widen_factor=1, attention_stages=(3,), num_heads=2, upsilon=0.25, min_key_depth_per_head=3)
    return resolve(
        {
            "batch_size": 16,
            "epochs": 10,
            "model": {"options": options, "dtype": dtype, "param_dtype": dtype},
            "data": {"crop": "none"},
            "optimizer": {"ema_decay": 0.9, "learning_rate": 0.02},
            "parallel": parallel,
        }
    )


def batches(steps):
    rng = np.random.default_rng(7)
    for _ in range(steps):
        yield {
            "image": rng.integers(0, 256, (16, *SHAPE), np.uint8),
            "label": rng.integers(0, CLASSES, 16).astype(np.int32),
        }


def prepare(config, devices):
    prepared = Preprocessing(
        SHAPE[:2], 3, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))), config.model.dtype, ""
    )
    layout = Layout.of(config, jax.devices()[:devices])
    program = Program.of(config, prepared, layout, 100)
    return program.train_step, program.new_state(), layout


def losses_of(config, devices, steps):
    """Return the loss of each step."""
    step, state, layout = prepare(config, devices)
    losses = []
    with jax.set_mesh(layout.mesh):
        for batch in batches(steps):
            state = step(state, place_batch(batch, layout))
            losses.append(float(state.window["loss"]))
            state = reset_window(state)
    assert int(state.skipped) == 0
    return np.array(losses)


EIGHT = {
    "both": {"fsdp": True, "model_devices": 2},
    "data parallel": {},
    "fsdp": {"fsdp": True},
    "heads over two": {"model_devices": 2},
}


@functools.cache
def alone():
    """Return the losses of fifty steps in float64 on one device."""
    return losses_of(config_of("float64"), 1, 50)


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.usefixtures("optimized")  # optimisations pay off over fifty steps
def test_fifty_steps_in_float64_are_those_of_one_device(name):
    with jax.enable_x64(True):
        assert alone().dtype == np.float64 and alone()[-5:].mean() < alone()[:5].mean()
        many = losses_of(config_of("float64", **EIGHT[name]), 8, 50)
        assert np.abs(many - alone()).max() < 1e-9, np.abs(many - alone()).max()


@pytest.mark.thorough
@pytest.mark.usefixtures("optimized")
def test_groups_of_batch_norm_are_the_same_on_any_number_of_devices():
    with jax.enable_x64(True):
        grouped = losses_of(config_of("float64", batch_norm_groups=8), 1, 10)
        assert np.abs(alone()[:10] - grouped).max() > 1e-3
        many = losses_of(config_of("float64", batch_norm_groups=8), 8, 10)
        assert np.abs(many - grouped).max() < 1e-9


@pytest.fixture(scope="module")
def one_step():
    """Return the momentum after a step in float32 and the compiled step, on one device and, by name, on eight."""

    def of(config, devices):
        step, state, layout = prepare(config, devices)
        with jax.set_mesh(layout.mesh):
            batch = place_batch(next(batches(1)), layout)
            program = step.lower(state, batch).compile()
            after = program(state, batch)
        momentum = [np.asarray(leaf) for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
        return momentum, hlo.Program(program.as_text())

    several = {**EIGHT, "groups": {"batch_norm_groups": 8}}
    return {"alone": of(config_of(), 1)} | {name: of(config_of(**parallel), 8) for name, parallel in several.items()}


@pytest.mark.thorough
@pytest.mark.parametrize("name", EIGHT)
def test_the_gradient_is_that_of_one_device(one_step, name):
    """The momentum after the first step is the gradient."""
    for a, b in zip(one_step["alone"][0], one_step[name][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def sent(one_step, name):
    """Return the calls of each kind of collective, and the largest array of those that are no all-reduces."""
    program = one_step[name][1]
    calls = {collective.kind: collective.calls for collective in collectives(program, 8)}
    others = (site.instruction for site in program.sites() if site.instruction.opcode in calls)
    return calls, max((hlo.shape_bytes(i.shape) for i in others if i.opcode != "all-reduce"), default=0)


@pytest.mark.thorough
def test_a_step_sends_gradients_and_statistics_and_no_activations(one_step):
    norms = 7  # two in each of three blocks, and one before the classifier
    calls, _ = sent(one_step, "data parallel")
    # A batch norm sends the shift of its statistics (not on TPUs), the statistics, and their gradients.
    assert calls.keys() == {"all-reduce"} and calls["all-reduce"] <= 3 * norms + 1
    assert sent(one_step, "groups") == ({"all-reduce": 1}, 0)
    widest = 4 * max(leaf.size for leaf in one_step["alone"][0])
    for name in ("fsdp", "heads over two", "both"):
        calls, largest = sent(one_step, name)
        assert calls.keys() <= {"all-reduce", "all-gather", "reduce-scatter"} and calls["all-gather"] > 0
        assert 0 < largest <= widest  # parameters, no activations


@pytest.mark.thorough
def test_a_split_state_lies_in_pieces_and_stays_there():
    step, state, layout = prepare(config_of(fsdp=True), 8)
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    split = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 8 for leaf in split)
    big = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema)) if leaf.size >= 4096]
    assert len(split) == len(big) == 12
    with jax.set_mesh(layout.mesh):
        after = step(state, place_batch(next(batches(1)), layout))
    assert jax.tree.map(lambda leaf: leaf.sharding, after) == before


def test_what_does_not_divide():
    with pytest.raises(ConfigError, match=r"'parallel.model_devices' \(3\) must divide the 8 devices"):
        Layout.of(config_of(model_devices=3))


@pytest.mark.parametrize(
    ("trained_on", "here", "heads", "batch"),
    [(2, 1, 1, 20), (2, 3, 1, 21), (2, 8, 2, 20), (8, 4, 4, 20), (4, 6, 2, 21)],
)
def test_a_run_is_used_on_other_devices_than_it_was_trained_on(trained_on, here, heads, batch):
    config = dataclasses.replace(config_of(model_devices=trained_on), eval_batch_size=20)
    found = on_these_devices(config, jax.devices()[:here])
    assert (found.parallel.model_devices, found.eval_batch_size) == (heads, batch)
    layout = Layout.of(found, jax.devices()[:here])
    layout.check_batch_size("eval_batch_size", found.eval_batch_size)
    assert layout.mesh.size == here
    with pytest.raises(ConfigError, match=r"'batch_size' \(16\) must divide by 'parallel.batch_norm_groups' \(3\)"):
        config_of(batch_norm_groups=3)
    layout = Layout.of(config_of(model_devices=4))
    layout.check_batch_size("batch_size", 6, 3)
    with pytest.raises(ConfigError, match=r"'batch_size' \(9\) must divide by 2 devices"):
        layout.check_batch_size("batch_size", 9)
    with pytest.raises(ValueError, match=r"num_heads=2 does not divide over the 4 devices of the mesh's axis 'model'"):
        losses_of(config_of(model_devices=4), 8, 1)


def compiled(*trees):
    """Return figures of the steps of some configs, compiled by the TPU's compiler."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_NUM_CPU_DEVICES": "1"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    command = [sys.executable, str(Path(__file__).with_name("compile_sharded.py")), json.dumps(trees)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow  # five minutes
@pytest.mark.skipif(not installed(), reason="libtpu is not installed")
def test_what_four_tpu_chips_send():
    options = dict(depth=10, widen_factor=4)
    plain = {"name": "wide_resnet28_10", "options": options, "dtype": "bfloat16"}
    single = {**plain, "dtype": "float32"}
    augmented = {"name": "aa_wide_resnet28_10", "options": {**options, "num_heads": 4}, "dtype": "bfloat16"}
    common = {"data": {"name": "cifar10"}, "batch_size": 256}
    parallel, grouped, sharded, heads = compiled(
        {**common, "model": plain},
        {**common, "model": single, "parallel": {"batch_norm_groups": 4}},
        {**common, "model": plain, "parallel": {"fsdp": True}},
        {**common, "model": augmented, "parallel": {"model_devices": 2}},
    )
    norms = 7  # two in each of three blocks, and one before the classifier
    assert parallel["calls"].keys() == {"all-reduce"} and parallel["calls"]["all-reduce"] <= 2 * norms + 1
    # One all-reduce has all gradients, at least the size of the parameters in bfloat16.
    assert parallel["largest"]["all-reduce"] >= parallel["params"] / 2
    assert grouped["calls"] == {"all-reduce": 1}
    assert sharded["calls"].keys() <= {"all-reduce", "all-gather", "reduce-scatter"}
    assert sharded["state"] <= 1.05 / 4 * parallel["state"]
    assert sharded["temporary"] <= 1.3 * parallel["temporary"]
    assert sharded["largest"]["all-gather"] <= sharded["widest"]  # parameters, no activations
    assert heads["calls"].keys() == {"all-reduce", "all-gather"}
    assert heads["largest"]["all-gather"] <= heads["widest"]
