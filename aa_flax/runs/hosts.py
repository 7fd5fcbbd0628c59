"""Several processes that train together, one on each host, through `jax.distributed`; checks that their runs agree."""

import contextlib
import ctypes
import hashlib
import io
import math
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from aa_flax.config.schema import ConfigError
from aa_flax.private_names import shared_store
from aa_flax.runs.exits import LOST, leave
from aa_flax.runs.paths import RunPath

_LOST = "(?i)gloo|nccl|connection|unavailable|heartbeat|coordination service|peer|deadline"
"""Words in JAX's errors when another process is lost."""

_ADDRESS = r"(?:\[[^\]\s]+\]|[^\[\]:/\s]+):(\d{1,5})"
"""The address of a process: a name, or a number of IPv4 or, in brackets, of IPv6; and its port."""

_C_HANDLERS: list[Any] = []
"""Handlers, kept for ever because C code holds no reference."""

_PATIENCE = 10.0  # seconds for a file to appear on the other hosts of a network disk


def join(peer_timeout_seconds: int) -> None:
    """Connect to the other processes of this run, before the first use of a JAX device; do nothing if none are named.

    `AA_FLAX_COORDINATOR` (host:port of the first process), `AA_FLAX_PROCESS_COUNT` and `AA_FLAX_PROCESS_INDEX` name
    them; `AA_FLAX_DISTRIBUTED=1` or `true` alone leaves that to `jax.distributed`, which knows Cloud TPU, Slurm and
    others.

    From then on a peer that does not answer for `peer_timeout_seconds` ends this process with exit code 76, and so does
    one that does not connect within five minutes.

    Raises:
        ConfigError: a variable has a value that cannot be, they contradict each other, or the other processes do not
            connect.
    """
    address, asked = os.environ.get("AA_FLAX_COORDINATOR"), _switched_on("AA_FLAX_DISTRIBUTED")
    if address is None and not asked:
        if alone := [name for name in ("AA_FLAX_PROCESS_COUNT", "AA_FLAX_PROCESS_INDEX") if name in os.environ]:
            raise ConfigError(f"{alone[0]} is set, which needs AA_FLAX_COORDINATOR=HOST:PORT beside it")
        return
    count = index = None
    if address is not None:
        port = re.fullmatch(_ADDRESS, address)
        if not port or not 0 < int(port[1]) < 2**16:
            raise ConfigError(
                f"AA_FLAX_COORDINATOR must be HOST:PORT of the first process, such as 10.0.0.2:8476 or [fd00::2]:8476, "
                f"got {address!r}"
            )
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


def _switched_on(name: str) -> bool:
    """Return whether an environment variable says yes; raise ConfigError where it says neither yes nor no."""
    value = os.environ.get(name, "")
    word = value.strip().lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
        raise ConfigError(f"{name} must be 1 or true, 0 or false, got {value!r}")
    return word in ("1", "true", "yes", "on")


def is_first() -> bool:
    """Return whether this is the first process, which writes the files that all share."""
    return jax.process_index() == 0


def first_says(value: Any) -> Any:
    """Return in all processes the number or bool that the first one gives; all processes must call this."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def part() -> None:
    """Wait until all processes call this, and end their connection, so that none seems lost because it ends first.

    Python does the same at its own exit; this is for a process that ends without it, through `leave`.
    """
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def prove_equal(values: dict[str, Any]) -> None:
    """Raise ConfigError in all processes unless each value is the same in all; it names processes and values."""
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


def gathered(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the arrays that each process gives, in the order of the processes, in all of them; all must call this.

    The arrays may have other lengths in each.
    """
    if jax.process_count() == 1:
        return [dict(arrays)]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # mypy takes names for options
    content = np.frombuffer(buffer.getvalue(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int64(len(content)))).ravel()
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = content
    every = np.asarray(multihost_utils.process_allgather(padded))
    found = []
    for row, length in zip(every, lengths, strict=True):
        with np.load(io.BytesIO(row[: int(length)].tobytes())) as archive:
            found.append({name: archive[name] for name in archive.files})
    return found


def prove_shared(folder: RunPath) -> None:
    """Raise ConfigError in all processes unless each sees the file that the first writes into `folder`."""
    if jax.process_count() == 1:
        return
    nonce = multihost_utils.broadcast_one_to_all(np.frombuffer(os.urandom(16), np.uint8))
    file = folder / f".nonce-{bytes(np.asarray(nonce)).hex()}"
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("")
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
    """An agreement to stop: any process calls for it, and all agree on a point that none of them has passed.

    All processes pass the same points 1, 2, 3 and so on, one at each call of `over`, but not at the same time: a host
    runs ahead of its devices. A thread in each process answers for it, because the main thread may be waiting for the
    devices of other processes.
    """

    _count = 0  # number of meetings so far, the same in all processes

    def __init__(self) -> None:
        Meeting._count += 1
        self._store: Any = shared_store()
        self._name = f"aa_flax/stop/{Meeting._count}"
        self._moment, self._limit = (
            0,
            math.inf,
        )  # the last point passed, and the one not to pass before all have answered
        self._lock, self._decided = threading.Lock(), threading.Event()
        self._stop_at = math.inf

    def call(self) -> None:
        """Call all processes to stop."""
        self._store.key_value_set(f"{self._name}/called", "1", allow_overwrite=True)

    def called(self) -> bool:
        """Return whether some process has called; for the thread that answers then."""
        try:
            self._store.key_value_try_get(f"{self._name}/called")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return False
            raise
        return True

    def answer(self, seconds: float) -> None:
        """Name the point that this process can stop at, and wait up to `seconds` for that of each other process."""
        with self._lock:
            self._limit = self._moment + 1
        self._store.key_value_set(f"{self._name}/at/{jax.process_index()}", str(self._limit))
        keys = (f"{self._name}/at/{index}" for index in range(jax.process_count()))
        self._stop_at = max(int(self._store.blocking_key_value_get(key, round(1000 * seconds))) for key in keys)
        self._decided.set()

    def over(self) -> bool:
        """Pass the next point, in the main thread; return whether it is the one to stop at."""
        with self._lock:
            self._moment += 1
        if self._moment >= self._limit:
            self._decided.wait()
        return self._moment >= self._stop_at


@contextlib.contextmanager
def parting(expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """End this process at once on an error, if there are several processes, instead of waiting for them at the exit.

    They would wait for this process in their next step. The exit code is 76 if the error is that another process was
    lost, 2 for `expected` errors, which are printed in one line, and 1 for all others.
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
        code = LOST if lost else getattr(error, "exit_status", 2) if told else 1
        leave(code, f"error: process {jax.process_index()} of {jax.process_count()}: {reason}")


def _turn_aborts_into_lost() -> None:
    """Exit with code 76 where JAX aborts the process, as it does when a peer is lost.

    Other aborts, inside XLA, end with the same code, because they cannot be told apart.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(number: int) -> None:
        leave(LOST, "another process of this run was lost; the run goes on from its last checkpoint")

    _C_HANDLERS.append(aborted)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), aborted)
