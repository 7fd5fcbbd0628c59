"""Times of single kernels, from a trace of JAX's profiler; it needs neither TensorFlow nor TensorBoard.

A GPU's plane has a line for each stream, with an event for each kernel; its other lines show the same time again, by
module or by operation. A CPU has no such plane: there the events of threads that name an operation of a program are
used, so that a rehearsal runs the same code.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

_DEVICE, _HOST, _STREAM = "/device:", "/host:CPU", "Stream"


@dataclass
class Kernel:
    """All calls of one kernel in a trace."""

    name: str
    module: str  # the program
    operation: str  # the compiler's name of the operation
    source: str = ""  # the operation's place in our code
    calls: int = 0
    milliseconds: float = 0.0  # of all calls together


@dataclass
class Trace:
    """The kernels that ran on the device while `traced` was open."""

    kernels: list[Kernel] = field(default_factory=list)

    def longest(self, count: int) -> list[Kernel]:
        """Return the `count` longest kernels, the longest first; those of one name and program count together."""
        summed: dict[tuple[str, str], Kernel] = {}
        for kernel in self.kernels:
            key = kernel.name, kernel.module
            found = summed.setdefault(key, Kernel(kernel.name, kernel.module, kernel.operation, kernel.source))
            found.calls += kernel.calls
            found.milliseconds += kernel.milliseconds
        return sorted(summed.values(), key=lambda kernel: -kernel.milliseconds)[:count]

    def by_module(self) -> dict[str, float]:
        """Return the milliseconds of all kernels of each program."""
        times: dict[str, float] = {}
        for kernel in self.kernels:
            times[kernel.module] = times.get(kernel.module, 0.0) + kernel.milliseconds
        return times


@contextlib.contextmanager
def traced() -> Iterator[Trace]:
    """Trace what runs on the device; the trace is filled when this closes. Wait for the device before it closes."""
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            yield trace
        trace.kernels = read(folder)


def read(folder: str | Path) -> list[Kernel]:
    """Return the kernels of the traces in a folder, in no order.

    Raises:
        ValueError: there is no trace in it.
    """
    files = sorted(Path(folder).rglob("*.xplane.pb"))
    if not files:
        raise ValueError(f"the profiler left no trace in {folder}")
    found: dict[tuple[str, str, str], Kernel] = {}
    with warnings.catch_warnings():  # Python 3.12 warns of a type of JAX; as an error that would end the process
        warnings.simplefilter("ignore", DeprecationWarning)
        events = [event for file in files for event in _events(jax.profiler.ProfileData.from_file(str(file)))]
    for name, stats, nanoseconds in events:
        module, operation = str(stats.get("hlo_module", "")), str(stats.get("hlo_op", ""))
        source = str(stats.get("name", stats.get("tf_op", "")))
        kernel = found.setdefault((name, module, operation), Kernel(name, module, operation, source))
        kernel.calls += 1
        kernel.milliseconds += nanoseconds / 1e6
    return list(found.values())


def _events(data: Any) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Yield name, facts and nanoseconds of each run of a kernel."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith(_DEVICE)]
    for plane in devices:
        for line in plane.lines:
            if line.name.startswith(_STREAM):
                for event in line.events:
                    yield event.name, dict(event.stats), event.duration_ns
    if devices:
        return
    for plane in planes:
        if plane.name == _HOST:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    if "hlo_op" in stats:
                        yield event.name, stats, event.duration_ns
