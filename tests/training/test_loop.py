"""Tests of the loop end to end on a few images: resuming, stopping, diverging, data parallelism."""

import json

import jax
import numpy as np
import pytest
from run_files import assert_same, final_state, rows

from aa_flax.data import DataError
from aa_flax.data.record_source import RecordSource
from aa_flax.models.functional import functional
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectoryError
from aa_flax.training import ConfigError, RunDirectory, resolve
from aa_flax.training.loop import train
from aa_flax.training.scoring import make_scorer
from aa_flax.training.trained import load_model
from aa_flax.training.window import NonFiniteError


@pytest.mark.thorough
def test_two_epochs_equal_one_and_one_bit_for_bit(plain_config, tmp_path, straight):
    plain_config.epochs = 2
    plain_config.stop_after_epoch = 1
    stopped = train(resolve(plain_config), tmp_path)
    assert not stopped.finished and stopped.epoch == 1
    halfway = rows(tmp_path)
    assert halfway == rows(straight)[: len(halfway)]  # the schedule is that of two epochs
    # A crash after the checkpoint leaves a row of a later step and an incomplete one.
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"step": 7, "split": "train", "loss": 9.0, "seconds": 0.0}) + '\n{"step": 8, "spl')
    plain_config.stop_after_epoch = 0
    resumed = train(resolve(plain_config), tmp_path)
    assert resumed.finished and resumed.epoch == 2 and resumed.scores.examples == 50
    assert_same(final_state(straight), final_state(tmp_path))
    assert rows(straight) == rows(tmp_path)
    # The same command once more has nothing to do and returns the same scores.
    again = train(resolve(plain_config), tmp_path)
    assert again.finished and again.scores.values == resumed.scores.values
    assert again.scores.details == resumed.scores.details
    assert rows(straight) == rows(tmp_path)


@pytest.mark.thorough
def test_log_has_every_window_and_every_evaluation(plain_config, tmp_path):
    plain_config.epochs = 2
    plain_config.eval_every_epochs = 2
    setup = train(resolve(plain_config), tmp_path).setup
    found = rows(tmp_path)
    assert [row["step"] for row in found if row["split"] == "train"] == [3, 4, 6, 8]
    assert [row["step"] for row in found if row["split"] == "eval"] == [8]
    assert set(found[0]) == {"step", "split", "epoch", "loss", "accuracy", "grad_norm", "learning_rate", "skipped"}
    scored = {"loss", "accuracy", "top5_accuracy"}
    scored |= {f"raw_{name}" for name in scored}  # of averaged weights, and of those of the last step
    assert {*found[-1]} == {"step", "split", "epoch", *scored}
    state, score = final_state(tmp_path), make_scorer(setup.program)
    with jax.set_mesh(setup.layout.mesh):
        averaged, raw = (
            score(variables, setup.eval_source).values["loss"]
            for variables in ((state.ema["params"], state.ema["batch_stats"]), (state.params, state.batch_stats))
        )
    assert averaged != raw
    assert (found[-1]["loss"], found[-1]["raw_loss"]) == pytest.approx((averaged, raw), rel=1e-6)
    assert all(np.isfinite(row["loss"]) for row in found)
    assert list(tmp_path.glob("events.out.tfevents*"))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 8


@pytest.mark.thorough
def test_divergence_names_step_metrics_and_last_good_checkpoint(plain_config, tmp_path):
    plain_config.stop_after_epoch = 1
    train(resolve(plain_config), tmp_path)
    # The learning rate in the same directory is changed by hand so that the parameters overflow.
    config = json.loads((tmp_path / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 1e38
    config["stop_after_epoch"] = 0
    config["max_nonfinite_steps"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NonFiniteError) as caught:
        train(resolve(config), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "infinite or NaN in 1 step, last in step 5" in message or "last in step 4" in message
    assert str(tmp_path / "checkpoints" / "4") in message
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 4  # no overflowed state was saved


@pytest.mark.thorough
def test_a_changed_field_is_refused_on_resume_and_a_harmless_one_is_not(plain_config, tmp_path):
    plain_config.stop_after_epoch = 1
    train(resolve(plain_config), tmp_path)
    plain_config.optimizer.learning_rate = 0.07
    plain_config.seed = 3
    words = r"seed was 0 and is now 3, optimizer.learning_rate was 0.05 and is now 0.07; use another workdir"
    with pytest.raises(ConfigError, match=words):
        train(resolve(plain_config), tmp_path)
    plain_config.optimizer.learning_rate, plain_config.seed = 0.05, 0
    plain_config.data.cache = True
    assert train(resolve(plain_config), tmp_path).epoch == 1
    plain_config.data.eval_split = "test[:40]"
    with pytest.raises(ConfigError, match="data.eval_split was 'test\\[:50\\]'"):
        train(resolve(plain_config), tmp_path)


def test_a_start_that_fails_leaves_nothing_behind(tiny_config, tmp_path):
    tiny_config.model.options.num_head = 2
    with pytest.raises(ConfigError, match="no option 'num_head'; did you mean 'num_heads'"):
        train(resolve(tiny_config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    del tiny_config.model.options["num_head"]
    tiny_config.data.crop_padding = 9
    with pytest.raises(ConfigError, match=r"'data.crop_padding' must lie in \[1, 8\] for images of 8x8, got 9"):
        train(resolve(tiny_config), tmp_path / "run")
    tiny_config.data.crop_padding = 1
    with pytest.raises(RunDirectoryError, match="cannot be read from a path with"):
        train(resolve(tiny_config), tmp_path / "run[1]")
    tiny_config.batch_size = 20
    with pytest.raises(ConfigError, match=r"'batch_size' \(20\) must divide by 8 devices"):
        train(resolve(tiny_config), tmp_path / "run")


@pytest.mark.thorough
def test_a_run_that_diverged_before_its_first_checkpoint_may_start_again(plain_config, tmp_path):
    plain_config.optimizer.learning_rate = 1e38
    plain_config.max_nonfinite_steps = 0
    plain_config.epochs = 1
    with pytest.raises(NonFiniteError, match="last good checkpoint: none"):
        train(resolve(plain_config), tmp_path)
    plain_config.optimizer.learning_rate = 0.05
    plain_config.log_every_steps = 100  # more than an epoch: images per second are known from the second epoch on
    plain_config.epochs = 2
    outcome = train(resolve(plain_config), tmp_path)
    assert outcome.finished and outcome.images_per_second > 0


@pytest.mark.slow  # half a minute; each feature is tested alone too
def test_accumulation_mixup_cutout_clipping_and_decoupled_decay_run(tiny_config, tmp_path):
    tiny_config.epochs = 1
    tiny_config.data.mixup, tiny_config.data.cutout = 0.2, 3
    tiny_config.optimizer.accumulation_steps = 2
    tiny_config.optimizer.clip_norm = 1.0
    tiny_config.optimizer.nesterov = True
    tiny_config.optimizer.weight_decay_mode = "decoupled"
    tiny_config.model.dtype = "bfloat16"
    outcome = train(resolve(tiny_config), tmp_path)
    assert outcome.finished and np.isfinite(outcome.scores.values["loss"])
    model, step = load_model(RunDirectory(tmp_path))
    assert step == 4
    assert {leaf.dtype for leaf in jax.tree.leaves(functional(model)[1])} == {np.dtype("float32")}


@pytest.mark.thorough
def test_an_evaluation_that_fails_loses_no_step(plain_config, tmp_path, monkeypatch, straight):
    def read(source, index):
        if "test" in source.name and index == 40:
            raise DataError("a disk has gone")
        return record(source, index)

    plain_config.epochs = 2
    record = RecordSource._read_one
    with monkeypatch.context() as patch:
        patch.setattr(RecordSource, "_read_one", read)
        for _ in range(2):  # the second time it fails before the first step
            with pytest.raises(DataError, match="a disk has gone"):
                train(resolve(plain_config), tmp_path)
            assert saved_steps(tmp_path / "checkpoints") == [4]
    assert train(resolve(plain_config), tmp_path).finished
    assert rows(tmp_path) == rows(straight)
    assert_same(final_state(tmp_path), final_state(straight))
