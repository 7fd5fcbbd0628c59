"""Tests of the messages at a run's start, of traces of its steps, and of device reads at log steps only."""

import re

import jax
import pytest

from aa_flax.training import ConfigError, determinism, loop, resolve
from aa_flax.training.loop import train


@pytest.mark.thorough
def test_time_to_the_first_step_is_told_by_phase_and_a_trace_is_written(plain_config, tmp_path, capsys):
    plain_config.epochs, plain_config.stop_after_epoch = 2, 1
    plain_config.profile_steps = (2, 3)
    train(resolve(plain_config), tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("first step done")]
    number = r"\d+\.\d"
    phases = ("data and network", "state", "first batch and compilation", "step")
    parts = ", ".join(f"{phase} {number}" for phase in phases)
    assert re.fullmatch(rf"first step done after {number} s: {parts}", line)
    (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb")) and (folder / "perfetto_trace.json.gz").stat().st_size > 1000


@pytest.mark.thorough
def test_the_device_is_read_at_log_steps_only(plain_config, tmp_path, monkeypatch):
    """Every transfer of an array to the host goes through its `_value` or `device_get`, which the test counts."""
    plain_config.epochs, plain_config.eval_every_epochs, plain_config.log_every_steps = 2, 2, 4
    reads: list[int] = []
    steps: list[int] = []
    array, place_batch = type(jax.numpy.zeros(1)), loop.Setup.placed

    def counted(self, batch):
        steps.append(1)
        return place_batch(self, batch)

    value = array._value.fget
    monkeypatch.setattr(array, "_value", property(lambda self: (reads.append(len(steps)), value(self))[1]))
    monkeypatch.setattr(loop.Setup, "placed", counted)
    train(resolve(plain_config), tmp_path)
    assert len(steps) == 8
    # The state is read before the first step, then only after steps that end a log window.
    assert set(reads) <= {0, 4, 8} and 4 in reads


@pytest.mark.parametrize("steps", [(3,), (0, 4), (5, 5), (1, 2, 3)])
def test_profile_steps_are_two(steps):
    with pytest.raises(ConfigError, match="'profile_steps' must be \\(first, last\\) with 0 < first < last"):
        resolve({"profile_steps": steps})


def test_what_determinism_needs(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    assert determinism.check() == ()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        with pytest.raises(ConfigError, match="needs XLA_FLAGS='--xla_gpu_deterministic_ops=true'"):
            determinism.check()
        determinism.ask()
        assert determinism.check() == ("--xla_gpu_deterministic_ops=true",)
