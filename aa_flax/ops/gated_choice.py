"""Choice of the forms of a gated convolution for "auto", from one table and the platform that the program runs on."""

import functools
import logging
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """Properties of a call that the choice may depend on."""

    platform: str  # "cpu", "gpu", "tpu"
    height: int  # of the output
    width: int
    in_features: int  # of a group
    features: int
    groups: int
    separable: bool  # whether the gate is one number for all input channels

    @property
    def depthwise(self) -> bool:
        """Return whether each output channel sees one input channel."""
        return self.in_features == 1


@dataclass(frozen=True)
class Entry:
    """A row of `TABLE`; the first row that serves a call is taken."""

    platforms: tuple[str, ...]
    depthwise: bool | None  # None: either
    fewest: int  # the least h*w of the output
    forms: tuple[str, str, str]  # of the convolution, of its input gradient, of its kernel and gate gradients
    because: str


_COUNTED = "bytes moved, counted by the compiler: experiments/results/gated_convolution_v5e.json"
TABLE = (
    Entry(("tpu",), True, 1, ("tap", "tap", "tap"), _COUNTED),
    Entry(("tpu",), False, 128, ("fold", "fold", "fold"), _COUNTED),
    Entry(("tpu",), False, 1, ("fold", "fold", "tap"), _COUNTED),
    Entry(
        ("cpu",),
        None,
        1,
        ("tap", "tap", "tap"),
        "XLA's grouped convolutions are slow there: experiments/benchmarks/gated_convolution.py",
    ),
    Entry(("gpu",), None, 1, ("tap", "tap", "tap"), "keeps no kernel of a sample in memory; not measured on a GPU"),
)


@functools.cache
def choose(call: Call) -> tuple[str, str, str]:
    """Return the forms for a call, and log them (INFO) once for each kind of call."""
    entry = next(entry for entry in TABLE if _serves(entry, call))
    _log.info("gated convolution: %s for %s (%s)", ", ".join(entry.forms), call, entry.because)
    return entry.forms


def _serves(entry: Entry, call: Call) -> bool:
    platform = call.platform if call.platform in ("tpu", "cpu") else "gpu"
    right = entry.depthwise is None or entry.depthwise == call.depthwise
    return platform in entry.platforms and right and call.height * call.width >= entry.fewest
