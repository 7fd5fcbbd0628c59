"""Tests of log windows without a run."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import optax
import pytest

from aa_flax.training import resolve, window
from aa_flax.training.state import create_state


@pytest.mark.usefixtures("unchecked_shapes")  # stubs replace the run and its log
def test_the_rate_of_a_run_that_goes_on_counts_its_own_steps(monkeypatch):
    rows, now = [], [50.0]
    setup = SimpleNamespace(config=resolve({"batch_size": 16}), learning_rate=lambda step: 0.1, epoch_steps=4)
    log = SimpleNamespace(write=lambda step, split, **values: rows.append((step, values)))
    progress = SimpleNamespace(update=lambda *_: None)
    monkeypatch.setattr(window.time, "monotonic", lambda: now[0])
    windows = window.Windows(setup, 1000, log, progress, lambda: 0.0, lambda: "none")
    windows.restart()
    state = create_state({"w": jnp.zeros(2)}, {}, optax.identity(), ema=False, metrics={"hits": jnp.int32})
    hits = {"sum": jnp.int32(12), "count": jnp.int32(48)}
    sums = {**state.window, "steps": jnp.int32(3), "loss": jnp.float32(6), "metrics": {"hits": hits}}
    now[0] += 2
    after = windows.close(dataclasses.replace(state, step=jnp.int32(1003), window=sums))
    assert windows.images_per_second == 3 * 16 / 2
    (step, row), *_ = rows
    assert (step, row["loss"], row["hits"], row["images_per_second"]) == (1003, 2.0, 0.25, 24.0)
    assert int(after.window["steps"]) == 0
    now[0] += 100  # a step that is compiled
    windows.compiled(1004)
    now[0] += 0.5
    windows.close(dataclasses.replace(state, step=jnp.int32(1006), window=sums))
    windows.compiled(1007)
    windows.close(dataclasses.replace(state, step=jnp.int32(1007), window=sums))
    assert [row["images_per_second"] for _, row in rows] == [24.0, 64.0, None]
    assert windows.latest_images_per_second == windows.images_per_second == 64.0
