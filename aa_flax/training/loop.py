"""The train loop: from a config to a finished run directory."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from aa_flax import data
from aa_flax.evaluation import Scores
from aa_flax.training.checkpoints import Checkpoints
from aa_flax.training.config import Config
from aa_flax.training.freezing import leave_frozen
from aa_flax.training.initial import build_model, take_weights
from aa_flax.training.metrics import MetricsLog, read_metrics
from aa_flax.training.optimizers import learning_rate, optimizer
from aa_flax.training.preprocessing import preprocessing_for
from aa_flax.training.progress import ProgressBar
from aa_flax.training.pure import functional
from aa_flax.training.run_directory import RunDirectory
from aa_flax.training.scoring import make_scorer
from aa_flax.training.sharding import check_batch_size, data_mesh, place_batch, replicated
from aa_flax.training.state import TrainState, create_state, evaluated
from aa_flax.training.step import jit_train_step, reset_window


class NonFiniteError(Exception):
    """Training diverged; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a call of `train` ended."""

    finished: bool
    epoch: int
    scores: Scores
    train_seconds: float  # of all calls that made this run, compilation and evaluation included
    images_per_second: float  # of the optimiser steps alone


def train(config: Config, workdir: Path) -> Outcome:
    """Train as `config` says in `workdir`, from the newest checkpoint there if there is one.

    Raises:
        ConfigError, aa_flax.data.DataError: before anything is compiled, if the run cannot be.
        NonFiniteError: loss or gradient became infinite or NaN.
    """
    directory = RunDirectory(workdir)
    mesh = data_mesh()
    check_batch_size("batch_size", config.batch_size, mesh, config.optimizer.accumulation_steps)
    check_batch_size("eval_batch_size", config.eval_batch_size, mesh)
    directory.check(config)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    preprocessing = preprocessing_for(config, dataset)
    directory.check(config, preprocessing)
    sources = [dataset.split(name) for name in (config.data.train_split, config.data.eval_split)]
    train_source, eval_source = [source.cached() for source in sources] if config.data.cache else sources
    epoch_steps = data.steps_per_epoch(len(train_source), config.batch_size)
    total_steps = config.epochs * epoch_steps

    model = build_model(config, preprocessing)
    if config.model.init_from and not directory.has_checkpoint:
        report = str(take_weights(model, config))
        print(f"weights of {config.model.init_from}: {report.splitlines()[0]}", flush=True)
    else:
        report = ""
    directory.begin(config, preprocessing, report)
    if config.optimizer.schedule == "steps" and min(config.optimizer.decay_at_epochs) >= config.epochs:
        logging.warning("the learning rate never drops: decay_at_epochs begins after the %d epochs", config.epochs)
    apply, params, batch_stats = functional(model)
    chain = leave_frozen(optimizer(config.optimizer, total_steps, epoch_steps), config.model.frozen)
    state = create_state(params, batch_stats, chain, ema=bool(config.optimizer.ema_decay))
    state = jax.device_put(state, replicated(mesh))
    train_step = jit_train_step(apply, chain, config, preprocessing, mesh)

    with Checkpoints(directory.checkpoints, config.keep_checkpoints) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        done = int(state.step)
        log = MetricsLog(workdir, done)
        seconds_before = max((row["seconds"] for row in read_metrics(log.file)), default=0.0)
        started = time.monotonic()

        def elapsed() -> float:
            return seconds_before + time.monotonic() - started

        scorer = make_scorer(apply, preprocessing, config, mesh)
        batches = data.train_batches(
            train_source,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=done,
            image_size=preprocessing.image_size,
            crop=config.data.crop,
            crop_padding=config.data.crop_padding,
            fill=preprocessing.mean_pixel,
            num_threads=config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        schedule = learning_rate(config.optimizer, total_steps, epoch_steps)
        last_epoch = min(config.stop_after_epoch or config.epochs, config.epochs)
        scores = None
        with batches, jax.set_mesh(mesh), ProgressBar(total_steps, done, config.epochs) as progress:
            window = _Window(log, progress, checkpoints, schedule, config.batch_size, epoch_steps, elapsed)
            for step in range(done, last_epoch * epoch_steps):
                state = train_step(state, place_batch(_pixels(next(batches)), mesh))
                epoch, ends_epoch = (step + 1) // epoch_steps, (step + 1) % epoch_steps == 0
                if (step + 1) % config.log_every_steps == 0 or ends_epoch:
                    state = window.close(state)
                if not ends_epoch:
                    continue
                is_last = epoch == last_epoch
                if epoch % config.eval_every_epochs == 0 or is_last:
                    scores = scorer(evaluated(state), eval_source)
                    log.write(
                        step + 1, "eval", epoch=epoch, loss=scores.loss, accuracy=scores.accuracy, seconds=elapsed()
                    )
                    progress.epoch(step + 1, epoch, f"held-out loss {scores.loss:.3f}  accuracy {scores.accuracy:.4f}")
                if epoch % config.checkpoint_every_epochs == 0 or is_last:
                    checkpoints.save(state)
                window.restart()  # evaluation and saving are not training
            scores = scores or scorer(evaluated(state), eval_source)
        log.close()
    return Outcome(
        finished=int(state.step) >= total_steps,
        epoch=int(state.step) // epoch_steps,
        scores=scores,
        train_seconds=elapsed(),
        images_per_second=window.images_per_second,
    )


class _Window:
    """Closes log windows: the only places where the host waits for the device."""

    def __init__(
        self,
        log: MetricsLog,
        progress: ProgressBar,
        checkpoints: Checkpoints,
        schedule: Callable[[Any], Any],
        batch_size: int,
        epoch_steps: int,
        elapsed: Callable[[], float],
    ) -> None:
        self._log, self._progress, self._checkpoints = log, progress, checkpoints
        self._schedule, self._epoch_steps, self._elapsed = schedule, epoch_steps, elapsed
        self._batch_size = batch_size
        self._since: float | None = None  # unknown for a window that compiles
        self._rates: list[float] = []

    @property
    def images_per_second(self) -> float:
        """Median over the windows of this call; nan if there was none without compilation."""
        return sorted(self._rates)[len(self._rates) // 2] if self._rates else math.nan

    def close(self, state: TrainState) -> TrainState:
        """Log the window's means and open the next; NonFiniteError if a step of it went wrong."""
        sums, step, bad = jax.device_get((state.window, state.step, state.first_bad_step))
        now = time.monotonic()
        steps, step = int(sums["steps"]), int(step)
        means = {
            "loss": float(sums["loss"]) / steps,
            "accuracy": int(sums["correct"]) / int(sums["examples"]),
            "grad_norm": float(sums["grad_norm"]) / steps,
            "learning_rate": float(self._schedule(step - 1)),
        }
        if bad >= 0:
            saved = self._checkpoints.latest_step
            good = f"{self._checkpoints.folder / str(saved)}" if saved is not None else "none"
            values = ", ".join(f"{name} {value:.6g}" for name, value in means.items())
            raise NonFiniteError(
                f"loss or gradient became non-finite at step {int(bad)} (means up to step {step}: {values}); "
                f"last good checkpoint: {good}"
            )
        rate = steps * self._batch_size / (now - self._since) if self._since else None
        if rate:
            self._rates.append(rate)
        self._log.write(step, "train", epoch=step / self._epoch_steps, **means, seconds=self._elapsed())
        epoch = math.ceil(step / self._epoch_steps)
        self._progress.update(step, epoch, means["loss"], means["accuracy"], rate or math.nan)
        self.restart()
        return reset_window(state)

    def restart(self) -> None:
        """Start the clock of the open window anew."""
        self._since = time.monotonic()


def _pixels(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("image", "label")}
