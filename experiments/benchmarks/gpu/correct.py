"""Checks of every implementation against NumPy in float64, value and five gradients, and of the layer against the CPU.

Each implementation runs in a process of its own (`trial.py`), all at once, so that one that ends its process or never
answers does not stop the others.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.gpu import exact
from experiments.benchmarks.gpu.checks import KEY_DEPTH, Check, checks, judged
from experiments.benchmarks.gpu.settings import Setting

# Height, width, value depth per head: those of ResNet-50 and Wide-ResNet, and one with sides that no tile divides.
MAPS = ((14, 14, 3), (7, 7, 6), (32, 32, 2), (8, 8, 8), (5, 11, 3))
TINY_MAPS = ((4, 4, 8), (3, 5, 3))


def implementations(rehearse: bool) -> list[str]:
    """Return the names of this version's implementations to check, the plainest first; "auto" is last."""
    from aa_flax.ops.relative_attention import IMPLEMENTATIONS

    kernel = "pallas_gpu_interpret" if rehearse else "pallas_gpu"
    return [
        *(name for name in ("paper", "folded", "folded_pieces", "cudnn", kernel) if name in IMPLEMENTATIONS),
        "auto",
    ]


def all_checks(rehearse: bool) -> list[Check]:
    """Return all checks in the order in which they run."""
    return checks(TINY_MAPS, batch=1, heads=2) if rehearse else checks(MAPS, batch=2, heads=8)


def run(setting: Setting) -> None:
    """Check all implementations and write a row for each implementation and check."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the GPU is for the trials
    record = setting.record("correct.json", rows=[])
    names, every = implementations(setting.rehearse), all_checks(setting.rehearse)
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(names) + 4) as pool:
        references = [pool.submit(_exact, check) for check in every]
        trials = []
        for name in names:
            trial = Trial(name, setting.rehearse, Path(scratch))
            trials.append(trial)
            pool.submit(_told, trial, every, references, record, lock)
        for trial in trials:
            trial.wait(max(0.0, setting.left()))
        for trial in trials:
            trial.stop()
    print(table(record.get("rows")), flush=True)


class Trial:
    """A process that computes an implementation's results, check by check."""

    def __init__(self, name: str, rehearse: bool, scratch: Path) -> None:
        self.name = name
        self.results = scratch / name
        self.results.mkdir()
        self._errors = self.results / "errors.txt"
        command = [sys.executable, "-m", "experiments.benchmarks.gpu.trial", name, str(self.results)]
        # Nothing is timed here, and XLA's trials of algorithms would take the longest.
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
        environment = {**os.environ, "XLA_FLAGS": flags}
        environment |= {} if rehearse else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, *(["--rehearse"] if rehearse else [])],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._stopped = False

    def answers(self) -> Any:
        """Yield the answers of the process, one object for each line, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may write there too
                yield json.loads(line)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the process, but no longer than `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def stop(self) -> None:
        """Kill the process if it has not ended."""
        if self._process.poll() is None:
            self._stopped = True
            self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """Return why there are no further answers."""
        code = self._process.wait()
        if self._stopped:
            return "no answer within the time"
        lines = [line.strip() for line in self._errors.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with code {code}: {lines[-1] if lines else ''}"[:300]


def _told(trial: Trial, every: list[Check], references: list[Future], record: Any, lock: Any) -> None:
    """Add a row for each check of a trial, when it answers."""
    answered = 0
    for answer in trial.answers():
        if "row" in answer:
            with lock:
                record.add("rows", {"implementation": trial.name, **answer["row"]})
            continue
        check = every[answer["check"]]
        row = {"implementation": trial.name, **check.describe()}
        row |= {key: answer[key] for key in ("chosen", "repeats", "device") if key in answer}
        if "refused" in answer:
            row |= {"passed": False, "refused": True, "reason": answer["refused"]}
        elif "failed" in answer:
            row |= {"passed": False, "reason": answer["failed"]}
        else:
            with np.load(trial.results / f"{answer['check']}.npz") as arrays:
                found = [arrays[name] for name in arrays.files]
            row |= judged(check, exact.errors(found, references[answer["check"]].result()))
        answered += 1
        with lock:
            record.add("rows", row)
            if "device" in answer:
                record.put(device=answer["device"])
    for check in every[answered:]:
        with lock:
            row = {"implementation": trial.name, **check.describe(), "passed": False, "reason": trial.last_words()}
            record.add("rows", row)


def _exact(check: Check) -> list[np.ndarray]:
    return exact.attend(check.inputs(), KEY_DEPTH**-0.5)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line for each implementation and kind of number, with its largest error and the first failure."""
    lines = []
    for name in dict.fromkeys(row["implementation"] for row in rows):
        for kind in dict.fromkeys(map(_kind, rows)):
            mine = [row for row in rows if row["implementation"] == name and _kind(row) == kind]
            if not mine:
                continue
            largest = max((max(row["errors"].values()) for row in mine if "errors" in row), default=float("nan"))
            failing = [row for row in mine if not row["passed"]]
            passed = f"{len(mine) - len(failing)} of {len(mine)} maps"
            line = f"{name:<22}{kind[0]:<10}{kind[1]:<9}{kind[2]:<10}{passed}, error {largest:.1e}"
            lines.append(line + (f"; {failing[0]['map']}: {failing[0]['reason']}" if failing else ""))
    return "\n".join(lines)


def _kind(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["dtype"], row["precision"], "layer" if "layer" in row else "attention"
