"""Running parts one after the other, each in a process of its own with a time limit, also if others fail."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GRACE = 3.0  # seconds between asking a part to stop and killing it
_LEAST = 10.0  # seconds; with less time a part is not started


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: the name of the part.
        file: the file that it writes, in the folder of results.
        seconds: its planned share of the time; what earlier parts do not use is added.
        most: the most seconds that it may have.
    """

    name: str
    file: str
    seconds: float
    most: float = float("inf")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part."""

    name: str
    status: str  # "done", "failed", "stopped at its limit", "not started"
    limit: float
    seconds: float
    line: str = ""  # its last line of output, if it did not end well


Command = Callable[[Part, float], Sequence[str]]
"""The command of a part, given its time limit in seconds."""


def limits(parts: Sequence[Part], remaining: float) -> list[float]:
    """Return the limit in seconds of the first of the remaining parts, and the shares that would be left to the others.

    Shares are the planned ones, all reduced by one factor if they do not fit into the remaining time. Time that they do
    not need goes to the first part, up to its `most`.
    """
    planned = sum(part.seconds for part in parts)
    factor = min(1.0, remaining / planned) if planned else 1.0
    shares = [part.seconds * factor for part in parts]
    shares[0] = min(parts[0].most, max(0.0, remaining - sum(shares[1:])))
    return shares


def run_parts(
    parts: Sequence[Part],
    budget: float,
    command: Command,
    environment: Mapping[str, str],
    log: Path,
    told: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Run parts in order within `budget` seconds and return their outcomes.

    Args:
        parts: the parts to run.
        budget: seconds for all parts together.
        command: returns the command line of a part.
        environment: environment variables of the processes.
        log: file to which their output is appended, besides standard output.
        told: called with the outcomes so far after each part.
    """
    started, outcomes = time.monotonic(), list[Outcome]()
    for index, part in enumerate(parts):
        limit = limits(parts[index:], budget - (time.monotonic() - started))[0]
        if limit < min(_LEAST, part.seconds or _LEAST):
            outcomes.append(Outcome(part.name, "not started", round(limit, 1), 0.0, "no time was left for it"))
        else:
            outcomes.append(_run(part, limit, command(part, limit), environment, log))
        told(outcomes)
    return outcomes


def _run(part: Part, limit: float, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Outcome:
    print(f"== {part.name}: at most {limit:.0f} s", flush=True)
    started, where = time.monotonic(), log.stat().st_size if log.exists() else 0
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
            status = "failed" if process.returncode else "done"
        except subprocess.TimeoutExpired:
            status = "stopped at its limit"
        finally:
            stop(process)
    seconds = round(time.monotonic() - started, 1)
    with log.open("rb") as stream:
        stream.seek(where)
        text = stream.read().decode(errors="replace")
    sys.stdout.write(text[-6000:])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    print(f"== {part.name}: {status} after {seconds} s", flush=True)
    return Outcome(part.name, status, round(limit, 1), seconds, lines[-1][:300] if lines and status != "done" else "")


def stop(process: subprocess.Popen) -> None:
    """End a process and all processes that it started, also those in a session of their own."""
    family = {process.pid, *descendants(process.pid)}
    _signal(family, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):  # orphans have another parent, but the same group
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and any(map(_alive, family)):
        process.poll()  # an ended process counts as alive until it is waited for
        time.sleep(0.02)
    _signal(family | {child for pid in family for child in descendants(pid)}, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> set[int]:
    """Return the processes that a process started, directly or through others, as far as /proc lists them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found, before = {pid}, -1
    while len(found) != before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
