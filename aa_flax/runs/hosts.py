"""Several processes that train together, one a host: JAX's own run time, and the proof that they mean the same run."""

import contextlib
import ctypes
import hashlib
import math
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from aa_flax.config.schema import ConfigError
from aa_flax.runs.exits import LOST, leave

_LOST = "(?i)gloo|nccl|connection|unavailable|heartbeat|coordination service|peer|deadline"
"""What JAX's errors speak of when another process is gone."""

_C_HANDLERS: list[Any] = []
"""Kept for ever: C keeps no reference."""

_PATIENCE = 10.0  # seconds for a file to appear on the other hosts of a network disk


def join(peer_timeout_seconds: int) -> None:
    """Meet the other processes of this run, before the first use of a JAX device; nothing where it is told of none.

    `AA_FLAX_COORDINATOR` (host:port of the first process), `AA_FLAX_PROCESS_COUNT` and `AA_FLAX_PROCESS_INDEX` name
    them; `AA_FLAX_DISTRIBUTED=1` alone leaves that to `jax.distributed`, which knows Cloud TPU, Slurm and others.

    From here on a peer that does not answer for `peer_timeout_seconds` ends this process with exit code 76, and so does
    one that does not come here within five minutes.

    Raises:
        ConfigError: the variables contradict, or the others do not come.
    """
    address = os.environ.get("AA_FLAX_COORDINATOR")
    if address is None and os.environ.get("AA_FLAX_DISTRIBUTED") != "1":
        return
    count = index = None
    if address is not None:
        try:
            count, index = (int(os.environ[f"AA_FLAX_PROCESS_{name}"]) for name in ("COUNT", "INDEX"))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"AA_FLAX_COORDINATOR is set, which needs two numbers beside it: {error}") from None
        if not 0 <= index < count:
            raise ConfigError(f"AA_FLAX_PROCESS_INDEX must lie in [0, {count}), got {index}")
    _turn_aborts_into_lost()
    try:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=peer_timeout_seconds)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the processes of this run cannot meet: {' '.join(str(error).split())}") from error


def is_first() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0


def first_says(value: Any) -> Any:
    """A number or bool of the first process, in all; they must all ask."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def part() -> None:
    """Wait until all processes come here, and end their connection, so that none is lost to another by leaving first.

    What Python does at its exit does the same; this is for a process that leaves without that.
    """
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def prove_equal(values: dict[str, Any]) -> None:
    """ConfigError in all processes, naming them and the values, unless each value is the same in all."""
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
    gathered = np.asarray(multihost_utils.process_allgather(np.array([list(digest) for digest in digests], np.uint8)))
    differs = (gathered != gathered[0]).any(2)  # [process, value]
    if differs.any():
        processes, names = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        raise ConfigError(
            f"process {', '.join(map(str, processes))} has another {', '.join(list(values)[i] for i in names)} "
            f"than process 0"
        )


def prove_shared(folder: Path) -> None:
    """ConfigError in all processes, naming them, unless each sees what the first writes into `folder`."""
    if jax.process_count() == 1:
        return
    nonce = multihost_utils.broadcast_one_to_all(np.frombuffer(os.urandom(16), np.uint8))
    file = folder / f".nonce-{bytes(np.asarray(nonce)).hex()}"
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        file.touch()
    multihost_utils.sync_global_devices("nonce")
    deadline = time.monotonic() + _PATIENCE
    while not (seen := file.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = np.flatnonzero(~np.asarray(multihost_utils.process_allgather(np.asarray(seen))))
    if is_first():
        file.unlink()
    if blind.size:
        raise ConfigError(
            f"process {', '.join(map(str, blind))} does not see what process 0 writes into {folder}: "
            f"the run directory must be shared by all hosts"
        )


class Meeting:
    """One of all processes calls the others to stop; they agree on a moment that none of them has passed.

    All go through the same moments 1, 2, 3 ..., though not at the same time: the host runs ahead of its devices. A
    thread in each process answers for it, because its main thread may be waiting for the others' devices.
    """

    _count = 0  # of meetings so far, the same in all processes

    def __init__(self) -> None:
        Meeting._count += 1
        self._store: Any = distributed.global_state.client
        self._name = f"aa_flax/stop/{Meeting._count}"
        self._moment, self._limit = 0, math.inf  # where this process is, and what it may not pass without an answer
        self._lock, self._decided = threading.Lock(), threading.Event()
        self._stop_at = math.inf

    def call(self) -> None:
        """Tell the others."""
        self._store.key_value_set(f"{self._name}/called", "1", allow_overwrite=True)

    def called(self) -> bool:
        """Whether some process has called; in the thread that answers then."""
        try:
            self._store.key_value_try_get(f"{self._name}/called")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return False
            raise
        return True

    def answer(self, seconds: float) -> None:
        """Say where this process is, and wait until all others have."""
        with self._lock:
            self._limit = self._moment + 1
        self._store.key_value_set(f"{self._name}/at/{jax.process_index()}", str(self._limit))
        keys = (f"{self._name}/at/{index}" for index in range(jax.process_count()))
        self._stop_at = max(int(self._store.blocking_key_value_get(key, round(1000 * seconds))) for key in keys)
        self._decided.set()

    def over(self) -> bool:
        """The next moment, in the main thread; whether it is the one to stop at."""
        with self._lock:
            self._moment += 1
        if self._moment >= self._limit:
            self._decided.wait()
        return self._moment >= self._stop_at


@contextlib.contextmanager
def parting(expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """With several processes an error ends this one at once, in place of waiting for the others at the exit.

    They would wait for it in their next step. Exit code 76 where the error is that another was lost, 2 for the
    `expected` ones, which are told in one line, and 1 for all else.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        # JAX raises a ValueError where a collective outside a program fails.
        raised_by_jax = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        lost = raised_by_jax and re.search(_LOST, str(error))
        told = isinstance(error, expected)
        if not told:
            traceback.print_exc()
        reason = " ".join(str(error).split())[: None if told else 300]
        code = LOST if lost else 2 if told else 1
        leave(code, f"error: process {jax.process_index()} of {jax.process_count()}: {reason}")


def _turn_aborts_into_lost() -> None:
    """JAX aborts the process when a peer is lost, which a launcher could not tell from a defect.

    Nor can this: whatever else aborts, inside XLA, ends with the same code.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(number: int) -> None:
        leave(LOST, "another process of this run was lost; the run goes on from its last checkpoint")

    _C_HANDLERS.append(aborted)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), aborted)
