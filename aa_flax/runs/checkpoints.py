"""Saving and restoring a run: Orbax writes in the background, and a manifest verifies the files before their use."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from absl import logging

from aa_flax.root_logger import left_alone
from aa_flax.runs.checkpoint_files import (
    delete_checkpoint,
    make_way,
    publish,
    remove_remains,
    saved_steps,
    unfinished,
    unvouched,
)
from aa_flax.runs.errors import RunDirectoryError
from aa_flax.runs.exits import UNSAVED
from aa_flax.runs.hosts import first_says, is_first
from aa_flax.runs.manifest import damage
from aa_flax.runs.paths import RunPath, for_orbax, run_path
from aa_flax.runs.quiet import without_tracebacks

with left_alone():
    import orbax.checkpoint as ocp


class CheckpointError(Exception):
    """Nothing can be restored, or saving failed too often; the message is one line."""


class NotSavedError(CheckpointError):
    """The state that a run ends with is not on disk; the message says what is."""

    exit_status = UNSAVED


Kind = TypeVar("Kind", bound="State")


@runtime_checkable  # the shape checker of the tests asks
class State(Protocol):
    """What is saved: trees of arrays, each an item of its own, and the step that they belong to.

    Attributes:
        by_name: for some items, the parts, each an array or a tree, whose arrays may differ between versions. An array
            that was not saved is restored as zeros; a saved array that the state does not have is ignored.
    """

    by_name: ClassVar[Mapping[str, tuple[str, ...]]]

    @property
    def step(self) -> Any: ...

    def items(self) -> dict[str, Any]:
        """Return the trees by the names of their items."""
        ...

    def with_items(self: Kind, items: dict[str, Any]) -> Kind:
        """Return a state of other trees of the same structure."""
        ...


class Checkpoints:
    """The checkpoints of one run directory: the items of a state, of which `model` is all that inference needs.

    A folder that is named after its step is complete: it gets this name when all files and its manifest are written,
    and loses the name before any of its files is deleted. One without a manifest is not proved to be ours, and one that
    differs from its manifest is damaged: either is passed over, with a warning, and the one before it is used.

    Restoring always uses an abstract tree: otherwise Orbax returns integer keys and named tuples as plain dicts, and
    layers would be permuted without an error.

    Args:
        folder: the folder of the checkpoints, on a disk or in a bucket.
        keep: how many of the newest are kept.
        failures: how many saves may fail in a row, as on a full disk, before an error ends the run.
        saved: called in the first process, in a thread, when a checkpoint is complete.
        spared: returns which one of some steps, those of all checkpoints, is kept besides, or None; called in the first
            process, also in a thread. If it is not given, none is.
        confirm: called in the first process, also in a thread, before a checkpoint is completed or deleted; raises if
            another process has taken over the run.
    """

    def __init__(
        self,
        folder: RunPath,
        keep: int = 2,
        failures: int = 3,
        saved: Callable[[], None] = lambda: None,
        spared: Callable[[list[int]], int | None] | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = run_path(folder)
        self._confirm = confirm
        self._keep, self._most_failures, self._saved_one, self._spared = keep, failures, saved, spared
        self._failures, self._reason = 0, ""
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._open = contextlib.ExitStack()
        self._saving: threading.Thread | None = None
        self._failure: Exception | None = None
        self._named: set[RunPath] = set()  # folders without a manifest that a warning has named
        self._whole: set[int] = set()  # steps whose files were compared and are undamaged
        self._published: set[int] = set()  # steps whose checkpoints were completed here

    def __enter__(self) -> "Checkpoints":
        self._open.enter_context(without_tracebacks())
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        try:
            self.wait()
        except CheckpointError:
            if kind is None:
                raise
        finally:
            try:
                self._checkpointer.close()
            except Exception as error:  # of a save whose failure was told, or will be by who needs it
                logging.warning("checkpoints in %s: %s", self.folder, _in_short(error))
            self._open.close()

    @property
    def latest_step(self) -> int | None:
        """Return the step of the newest undamaged checkpoint, the same on all hosts, or None if none was ever saved.

        It waits for a checkpoint that is being written.

        Raises:
            CheckpointError: there are checkpoints and all are damaged, or too many saves have failed in a row.
        """
        self.wait()
        # -1: none was saved; -2: all are damaged, which must end all processes alike.
        step, failure = -1, None
        if is_first():
            try:
                newest = self._newest_good()
            except CheckpointError as error:
                failure, step = error, -2
            else:
                step = -1 if newest is None else newest
        step = first_says(step)
        if step == -2:
            raise failure or CheckpointError(f"every checkpoint in {self.folder} is damaged; process 0 says how")
        return None if step < 0 else step

    def clean(self) -> None:
        """Remove unfinished saves and half-deleted checkpoints of a killed run; only a run that trains may call it."""
        if is_first():
            remove_remains(self.folder)

    def save(self, state: State) -> None:
        """Start writing the whole state under its step; return when the state is copied from the devices.

        A save that fails gives a warning, and its files are removed.

        Raises:
            CheckpointError: too many saves have failed in a row.
        """
        self.wait()
        step = int(state.step)
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.items().items()}
        self._whole.discard(step)
        self._published.discard(step)
        try:
            if is_first():
                self._confirm()
                make_way(self.folder, step)
            self._checkpointer.save(for_orbax(unfinished(self.folder, step)), args=ocp.args.Composite(**items))
        except Exception as error:
            self._failed(step, error)
            return
        self._saving = threading.Thread(target=self._finish, args=(step,), name="checkpoint")
        self._saving.start()

    def wait(self) -> None:
        """Wait until the last save has ended.

        Raises:
            CheckpointError: it failed, and with it too many in a row.
        """
        if self._saving is None:
            return
        self._saving.join()
        self._saving = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def prune(self) -> None:
        """Delete the checkpoints that are not kept, after a save that is going on, as each save does at its end.

        Nothing is deleted where the newest checkpoint is neither one that was saved here nor one that was compared with
        its manifest: it may be damaged, and an older one the last.

        Raises:
            CheckpointError: too many saves have failed in a row.
        """
        self.wait()
        newest = saved_steps(self.folder)[-1:] if is_first() else []
        if self._whole.union(self._published).issuperset(newest):
            self._clear_old()

    def require(self, step: int) -> None:
        """Wait until the last save is on disk and undamaged; all processes must call this.

        Raises:
            NotSavedError: the checkpoint of `step` is not there; the message says why, and what is there.
        """
        try:
            self.wait()
        except CheckpointError as error:
            logging.debug("%s", error)  # told below
        newest = self.latest_step
        if newest == step:
            return
        reason = self._reason or "process 0 says why"
        there = "no checkpoint is there" if newest is None else f"the newest there is of step {newest}"
        again = "begins anew" if newest is None else "goes on from it"
        raise NotSavedError(
            f"the state after step {step} could not be saved in {self.folder}: {reason}; {there}; the same command "
            f"{again} and tries again"
        )

    def restore(self, like: Kind, step: int | None = None) -> Kind:
        """Return the newest undamaged state, or that of `step`, with shapes, dtypes, structure and placement of `like`.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged, or all are.
        """
        step = self._chosen(step)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like.items())
        parts = [(item, part) for item, names in like.by_name.items() for part in names]
        asked = {item: dict(tree) for item, tree in wanted.items()}
        for item, part in parts:
            anywhere = jax.tree.leaves(wanted[item][part])[0].sharding
            asked_part = asked[item].pop(part)
            if part in (saved := self._saved(step, item)):
                asked[item][part] = _as_saved(saved[part], asked_part, anywhere)
        restored = self._restore(step, asked)
        for item, part in parts:
            restored[item][part] = _named(restored[item].get(part), wanted[item][part])
        return like.with_items({item: restored[item] for item in wanted})

    def restore_model(self, params: Any, batch_stats: Any, ema: bool, step: int | None = None) -> tuple[Any, Any]:
        """Return the parameters and batch statistics for inference: the averages if the run keeps them (`ema`).

        They are those of the newest undamaged checkpoint, or of `step`.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged, or all are.
        """
        model = {"params": params, "batch_stats": batch_stats}
        tree = jax.tree.map(ocp.utils.to_shape_dtype_struct, {**model, "ema": model if ema else {}})
        restored = self._restore(self._chosen(step), {"model": tree})["model"]
        chosen = restored["ema"] or restored
        return chosen["params"], chosen["batch_stats"]

    def _chosen(self, step: int | None) -> int:
        """Return the step to restore: `step`, if that checkpoint is undamaged, or that of the newest undamaged one."""
        self.wait()
        if step is not None:
            if step not in saved_steps(self.folder):
                raise CheckpointError(f"{self.folder} has no checkpoint of step {step}")
            if found := self._damage(step):
                raise CheckpointError(f"{self.folder / str(step)}: {found}")
        else:
            step = self.latest_step
        if step is None:
            others = ", ".join(child.name for child in unvouched(self.folder))
            raise CheckpointError(
                f"{self.folder}: " + (f"{others} without manifest" if others else "no checkpoint yet")
            )
        return step

    def _saved(self, step: int, item: str) -> Any:
        """Return the tree that was saved, with descriptions in place of arrays."""
        return ocp.StandardCheckpointHandler().metadata(for_orbax(self.folder / str(step) / item))

    def _restore(self, step: int, like: dict[str, Any]) -> Any:
        items = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        return self._checkpointer.restore(for_orbax(self.folder / str(step)), args=ocp.args.Composite(**items))

    def _newest_good(self) -> int | None:
        for folder in {*unvouched(self.folder)} - self._named:
            logging.warning("%s has no manifest: it is kept, and not used", folder)
            self._named.add(folder)
        damaged = []
        for step in reversed(saved_steps(self.folder)):
            found = self._damage(step)
            if found is None:
                return step
            damaged.append(f"{self.folder / str(step)}: {found}")
            logging.warning("damaged checkpoint passed over: %s", damaged[-1])
        if damaged:
            raise CheckpointError(f"every checkpoint is damaged: {'; '.join(damaged)}")
        return None

    def _damage(self, step: int) -> str | None:
        """Return what `damage` finds; a checkpoint that was found undamaged is not read again."""
        if step in self._whole:
            return None
        found = damage(self.folder / str(step))
        if found is None:
            self._whole.add(step)
        return found

    def _finish(self, step: int) -> None:
        """Wait for the files of a save, write their manifest and delete old checkpoints; in the background."""
        try:
            self._checkpointer.wait_until_finished()
            if is_first():
                self._confirm()
                publish(self.folder, step)
            self._failures = 0
            self._published.add(step)
            if is_first():
                self._quietly("the run could not be marked as saved", self._saved_one)
            self._clear_old()
        except Exception as error:
            try:
                self._failed(step, error)
            except CheckpointError as failure:
                self._failure = failure

    def _clear_old(self) -> None:
        """Delete the checkpoints that are no longer kept; what cannot be deleted stays, and the run goes on."""

        def clear() -> None:
            self._confirm()
            steps = saved_steps(self.folder)
            spared = None if self._spared is None else self._spared(steps)
            for old in steps[: -self._keep]:
                if old != spared:
                    delete_checkpoint(self.folder, old)

        if is_first():
            self._quietly("an old checkpoint could not be deleted", clear)

    def _quietly(self, failure: str, call: Callable[[], None]) -> None:
        """Call a function whose failure costs a warning."""
        try:
            call()
        except Exception as error:
            logging.warning("%s: %s: %s", self.folder, failure, _in_short(error))

    def _failed(self, step: int, error: Exception) -> None:
        self._failures += 1
        self._reason = reason = _in_short(error)
        logging.warning("checkpoint of step %d was not saved (%d in a row): %s", step, self._failures, reason)
        if is_first():
            with contextlib.suppress(OSError, RunDirectoryError):
                self._confirm()
                remove_remains(self.folder, step)
        if self._failures >= self._most_failures:
            raise CheckpointError(
                f"{self._failures} checkpoints in a row could not be saved in {self.folder}: {reason}"
            ) from error


def _in_short(error: Exception) -> str:
    """Return what the operating system said where the error tells its code, else the beginning of the message."""
    text = " ".join(str(error).split())
    if code := re.search(r"os_error_code='(\d+)'", text):  # TensorStore's form; the message itself repeats long paths
        return os.strerror(int(code[1]))
    return text[:300] or type(error).__name__


def _as_saved(saved: Any, wanted: Any, anywhere: Any) -> Any:
    """Return the tree to ask Orbax for, which restores only whole trees: the wanted arrays, and all others saved.

    The others need a sharding too, for which `anywhere` serves.
    """
    if isinstance(saved, Mapping):
        inner = wanted if isinstance(wanted, Mapping) else {}
        return {name: _as_saved(value, inner.get(name), anywhere) for name, value in saved.items()}
    if wanted is None or isinstance(wanted, Mapping):
        return jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=anywhere)
    return wanted


def _named(restored: Any, wanted: Any) -> Any:
    """Return the wanted tree with the restored arrays, and zeros where no array of the name was restored."""
    if isinstance(wanted, Mapping):
        inner = restored if isinstance(restored, Mapping) else {}
        return {name: _named(inner.get(name), value) for name, value in wanted.items()}
    if restored is None or isinstance(restored, Mapping):
        return jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
    return restored
