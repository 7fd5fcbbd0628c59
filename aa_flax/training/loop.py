"""The train loop: from a config to a finished run directory."""

import contextlib
import dataclasses
import functools
import math
import shlex
import time
from typing import Any, NamedTuple, NoReturn

import jax
from flax import nnx
from ml_collections import ConfigDict

from aa_flax.config.schema import Config, resolve
from aa_flax.literal import literal
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.compilation_cache import CompilationCache
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.display import say
from aa_flax.runs.exits import Leave
from aa_flax.runs.held_out import Evaluated, HeldOut
from aa_flax.runs.hold import Hold
from aa_flax.runs.hosts import first_says, is_first, part, prove_shared
from aa_flax.runs.metrics import MetricsError, MetricsLog, OnMetrics, read_metrics
from aa_flax.runs.paths import RunPath
from aa_flax.runs.phases import Phases
from aa_flax.runs.preemption import Preempted, Preemption
from aa_flax.runs.profiling import Profile
from aa_flax.runs.progress import ProgressBar
from aa_flax.runs.watchdog import Watchdog
from aa_flax.tasks import Scores
from aa_flax.training.scoring import make_scorer
from aa_flax.training.settings import mark_run
from aa_flax.training.setup import Setup, set_up
from aa_flax.training.state import TrainState, evaluated, raw
from aa_flax.training.window import NonFiniteError, Windows


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a call of `train`."""

    finished: bool
    epoch: int
    scores: Scores
    train_seconds: float  # of all calls that made this run, compilation and evaluation included
    images_per_second: float  # of the optimiser steps alone
    model: nnx.Module  # its weights averaged where the run averages, in this process's memory
    setup: Setup
    best: Evaluated | None  # the evaluation with the highest score of the run, of equal ones the first


def train(
    config: Config | ConfigDict | dict[str, Any],
    workdir: str | RunPath,
    *,
    leave: Leave | None = None,
    on_metrics: OnMetrics | None = None,
) -> Outcome:
    """Train as `config` says in `workdir`, from the newest undamaged checkpoint there if there is one.

    While this runs in the main thread it handles SIGTERM, Ctrl-C, SIGHUP, SIGUSR1 and SIGUSR2, and restores the earlier
    handlers at its end: the first signal ends training after the current step, with the state saved, by an exception;
    a second one raises KeyboardInterrupt. Python delivers a signal that comes during a compilation when that is over.
    The process never ends here, unless `leave` is given.

    Args:
        config: what to train; a ConfigDict, as `default_config` and the functions `get_config` return it, or a nested
            dict is resolved first.
        workdir: the run directory: a folder that does not exist, is empty, or holds this run; or one in a bucket of
            Google Cloud Storage, gs://BUCKET/PATH.
        leave: ends the process, as `aa_flax.runs.exits.leave` does: on a second signal, on one that is not noticed
            within 20 s, and where nothing has gone on for `config.hang_minutes`. It is for commands; None is for
            notebooks and other programs, where a hang gives a warning and the stacks of all threads.
        on_metrics: called with each row of `metrics.jsonl` after it was written, a dictionary with "step", "split" (
            "train" for a log window, "eval" for an evaluation), "epoch" and the values, None where one is not finite.
            Of several processes only the first calls it. An exception in it costs a warning, not the run; after ten
            in a row it is not called again. Training waits for it, which `images_per_second` does not count. A run that
            was killed gives the rows after its last checkpoint again.

    Raises:
        ConfigError, aa_flax.data.DataError: the run is not possible; raised before anything is compiled.
        RunDirectoryError: another process trains there, it cannot be written, it is none of a run, or its checkpoints
            are gone.
        NonFiniteError: loss or gradient became infinite or NaN.
        Preempted: a signal came, and the state is saved.
        CheckpointError: all checkpoints are damaged, several in a row could not be saved, or the last one could not.
    """
    config = config if isinstance(config, Config) else resolve(config)
    directory, phases = RunDirectory(workdir), Phases()
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption(leave).watching())
        watchdog = stack.enter_context(Watchdog(config.hang_minutes, leave))
        setup = set_up(config, directory)
        setup.check_splits()
        phases.done("data and network")
        hold = stack.enter_context(directory.locked())
        mark_run(directory)
        cache = CompilationCache(directory.path / "compiled")
        cache.clean()
        prove_shared(directory.path)
        stack.enter_context(cache)
        if setup.weights and is_first():
            say(literal(f"weights of {config.model.init_from}: {setup.weights.splitlines()[0]}"))
        directory.begin(config, setup.preprocessing, setup.weights)
        held_out = HeldOut(setup.program.task.headline)
        checkpoints = stack.enter_context(
            Checkpoints(
                directory.checkpoints,
                config.keep_checkpoints,
                saved=functools.partial(directory.mark, saved=True),
                spared=held_out.best_step if config.keep_best else None,
                confirm=hold.confirm,
            )
        )
        profile = stack.enter_context(
            contextlib.closing(Profile(config.profile_steps, functools.partial(directory.folder, "profile")))
        )
        services = _Services(hold, preemption, watchdog, cache, profile, phases, on_metrics)
        run = _Run(setup, directory, checkpoints, held_out, services)
        try:
            with run:
                return run.to_the_end()
        except NonFiniteError as error:
            directory.write_failure(str(error), error.bad_steps)
            shows = f"python -m aa_flax.replay --workdir={shlex.quote(str(directory.path))} looks at the step"
            raise NonFiniteError(f"{error}; {shows}", error.bad_steps) from None


class _Services(NamedTuple):
    """The services of a run: lock, signals, watchdog, compilation cache, profile, phases, who is told its log."""

    hold: Hold
    preemption: Preemption
    watchdog: Watchdog
    cache: CompilationCache
    profile: Profile
    phases: Phases
    on_metrics: OnMetrics | None


class _Run:
    """One call of `train`, with its directory open."""

    def __init__(
        self,
        setup: Setup,
        directory: RunDirectory,
        checkpoints: Checkpoints,
        held_out: HeldOut,
        services: _Services,
    ) -> None:
        self._setup, self._config = setup, setup.config
        self._checkpoints, self._held_out, self._services = checkpoints, held_out, services
        self._preemption, self._watchdog = services.preemption, services.watchdog
        checkpoints.clean()
        if checkpoints.latest_step is None:
            directory.require_nothing_lost()
            state = setup.program.new_state()
        else:
            directory.mark(saved=True)
            state = checkpoints.restore(setup.program.state_shapes)
        services.phases.done("state")
        self._state: TrainState = state
        self._step = int(state.step)
        self._log = MetricsLog(directory.path, self._step, services.on_metrics)
        rows = read_metrics(self._log.file)
        held_out.take(rows)
        evaluated_here = any(row["step"] == self._step and row["split"] == "eval" for row in rows)
        self._is_evaluated = first_says(evaluated_here)  # whether the step resumed at has its scores already
        self._seconds_before = max((row["seconds"] for row in rows), default=0.0)
        self._started = self._saved_at = time.monotonic()
        self._saved_step = self._step
        self._scorer = make_scorer(setup.program)
        self._scores: Scores | None = None
        self._compiled: set[tuple[Any, ...]] = set()  # sizes of images, and whether parts wait, compiled so far

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        try:
            self._log.close()
        except MetricsError:
            if kind is None:
                raise

    def to_the_end(self) -> Outcome:
        """Train until the last epoch of this call."""
        setup, program = self._setup, self._setup.program
        last_step = setup.last_epoch * program.epoch_steps
        progress = ProgressBar(program.total_steps, self._step, self._config.epochs)
        with setup.train_batches(self._step) as batches, jax.set_mesh(setup.layout.mesh), progress:
            self._progress = progress
            self._windows = Windows(program, self._step, self._log, progress, self._elapsed, self._last_good)
            if self._step and self._step % program.epoch_steps == 0:
                self._end_epoch(saved=True)  # a signal may have come before its evaluation
            while self._step < last_step:
                self._one_step(setup.placed(next(batches)))
                ends_epoch = self._step % program.epoch_steps == 0
                ends_window = self._step % self._config.log_every_steps == 0 or ends_epoch
                if ends_window:
                    self._state = self._windows.close(self._state)
                if ends_epoch:
                    self._end_epoch()
                elif ends_window and self._save_is_due():
                    self._save()
                if self._preemption.agreed():
                    self._stop(f"after step {self._step}")
            self._checkpoints.require(self._saved_step)
            scores = self._scores or self._score()
            model = program.model(setup.layout.fetched(evaluated(self._state)))
        return Outcome(
            finished=self._step >= program.total_steps,
            epoch=self._step // program.epoch_steps,
            scores=scores,
            train_seconds=self._elapsed(),
            images_per_second=self._windows.images_per_second,
            model=model,
            setup=setup,
            best=self._held_out.best(),
        )

    def _one_step(self, batch: dict[str, Any]) -> None:
        program = self._setup.program
        if self._step and self._step == program.thaw_step:
            self._progress.say(literal(f"{', '.join(self._config.model.frozen)} learn from here on too"))
        kind = (program.waits(self._step), *(batch["image"].shape[1:3] if "image" in batch else ()))
        self._state = program.train_step_at(self._step)(self._state, batch)
        self._step += 1
        if not self._compiled:
            self._services.phases.done("first batch and compilation")
            jax.block_until_ready(self._state)
            self._services.phases.done("step")
            self._progress.say(str(self._services.phases))
        if kind not in self._compiled:
            self._compiled.add(kind)
            jax.block_until_ready(self._state)
            self._windows.compiled(self._step)
            self._services.cache.vouch()
        self._services.profile.at(self._step, self._state)
        self._services.hold.check()
        self._watchdog.alive()

    def _end_epoch(self, *, saved: bool = False) -> None:
        """Save and evaluate, each if it is due; `saved` means that this call resumed at the end of this epoch."""
        epoch = self._step // self._setup.program.epoch_steps
        is_last = epoch >= self._setup.last_epoch
        due = epoch % self._config.eval_every_epochs == 0 or is_last
        if not saved and (epoch % self._config.checkpoint_every_epochs == 0 or is_last):
            self._save()  # first, because an evaluation may fail: on damaged data, for want of memory
        if due and not (saved and self._is_evaluated):
            try:
                scores = self._score()
            except Preempted:
                self._stop(f"in the evaluation after step {self._step}")
            self._log.write(self._step, "eval", epoch=epoch, **scores.values, seconds=self._elapsed())
            self._held_out.take([{"step": self._step, "split": "eval", "epoch": epoch, **scores.values}])
            self._scores = scores
        if due and self._config.keep_best:
            self._keep_best()
        if self._scores is not None and due:
            shown = {name: value for name, value in self._scores.values.items() if not math.isnan(value)}
            said = [*(f"{name} {value:.4f}" for name, value in shown.items()), *self._held_out.compared(self._step)]
            rate = self._windows.latest_images_per_second
            self._progress.epoch(self._step, epoch, f"held-out {'  '.join(said)}", rate)
        self._windows.restart()  # evaluation and saving are not training

    def _keep_best(self) -> None:
        """Save the state that was evaluated if it is the best and not saved, and delete the best one before it."""
        is_best = first_says(self._held_out.best_step() == self._step)
        if is_best and self._saved_step != self._step:
            self._save()  # which deletes what is no longer kept when it is complete
        else:
            self._checkpoints.prune()

    def _score(self) -> Scores:
        """Return the held-out scores; where the run averages, those of the last step's weights are beside them."""
        state = self._state
        return self._scorer(evaluated(state), self._setup.eval_source, self._between, raw=raw(state))

    def _save_is_due(self) -> bool:
        """Return whether `checkpoint_every_minutes` have passed since the last save, by the clock of the first host."""
        minutes = self._config.checkpoint_every_minutes
        due = bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
        return first_says(due) if minutes else False

    def _between(self) -> None:
        """Report progress and check lock and signals, between two batches of an evaluation."""
        self._watchdog.alive()
        self._services.hold.check()
        self._preemption.check()

    def _save(self) -> None:
        self._log.flush()
        self._checkpoints.save(self._state)
        self._services.cache.vouch()
        self._watchdog.alive()
        self._saved_at, self._saved_step = time.monotonic(), self._step

    def _stop(self, where: str) -> NoReturn:
        """Save the state if it is not saved yet, and raise Preempted, or NotSavedError if it cannot be saved."""
        if self._saved_step != self._step:
            self._save()
        try:
            self._checkpoints.require(self._saved_step)
        finally:
            part()
        raise self._preemption.error(where)

    def _last_good(self) -> str:
        """Return the folder of the newest checkpoint, or "none", for messages."""
        step = self._checkpoints.latest_step
        return "none" if step is None else str(self._checkpoints.folder / str(step))

    def _elapsed(self) -> float:
        return self._seconds_before + time.monotonic() - self._started
