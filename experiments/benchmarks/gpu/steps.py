"""Training steps of plain and augmented networks, in turn: milliseconds, images per second and ratios.

Programs are compiled in three threads before any is timed; those not ready after three quarters of the time are timed
later, in turn with the plain network again. XLA tries out algorithms on the card for one program at a time and
remembers them for the next; more threads at once would try the same algorithms repeatedly.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from experiments.benchmarks import devices, timing
from experiments.benchmarks import steps as library
from experiments.benchmarks.candidates import reason
from experiments.benchmarks.gpu import record
from experiments.benchmarks.gpu.checks import Verdicts
from experiments.benchmarks.gpu.correct import implementations
from experiments.benchmarks.gpu.settings import Setting
from experiments.benchmarks.train_step import MODELS, PAPER

_LEAST_WAIT = 0.2  # seconds between two checks for compiled programs
_FOR_TIMING = 0.25  # fraction of the part's time
# The maps on which the networks attend.
_RESNET, _WIDE = ("14x14", "7x7"), ("32x32", "16x16", "8x8")


@dataclass(frozen=True)
class Entry:
    """A network to be timed, beside the plain one of its group."""

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    implementation: str = ""  # of attention, which must pass its checks; "" for none
    maps: tuple[str, ...] = ()

    def model_options(self) -> dict[str, Any]:
        """Return the options that the network is built with."""
        return self.options | ({"implementation": self.implementation} if self.implementation else {})


@dataclass(frozen=True)
class Group:
    """Networks that take turns; ratios are relative to the first."""

    batch: int
    image_size: int
    entries: tuple[Entry, ...]


def groups(rehearse: bool) -> tuple[Group, ...]:
    """Return the groups in the order in which they are timed."""
    _, augmented = MODELS["aa_resnet50_025"]  # Table 2 of the paper
    small = {"blocks": (1, 1, 1, 1)} if rehearse else {}
    narrow = {"depth": 10, "widen_factor": 1} if rehearse else {}
    known = [
        name for name in ("auto", "cudnn", "pallas_gpu", "pallas_gpu_interpret") if name in implementations(rehearse)
    ]
    resnets = [Entry("resnet50", "resnet50", small)]
    resnets += [Entry(f"aa_resnet50_025 {n}", "aa_resnet50", {**augmented, **small}, n, _RESNET) for n in known]
    wide = [Entry("wide_resnet28_10", "wide_resnet28_10", narrow)]
    # Eight heads would find no tenth of the channels of a narrow network that they could share.
    attending = {**narrow, "num_heads": 1} if rehearse else {}
    wide += [Entry(f"aa_wide_resnet28_10 {n}", "aa_wide_resnet28_10", attending, n, _WIDE) for n in known]
    last = [Entry("aa_resnet50_025 paper", "aa_resnet50", {**augmented, **small}, "paper", _RESNET)]
    last += [Entry("aa_resnet50 auto", "aa_resnet50", small, "auto", _RESNET)]
    if rehearse:
        return (Group(2, 64, tuple(resnets)), Group(2, 16, tuple(wide)))
    return (Group(256, 224, tuple(resnets)), Group(128, 32, tuple(wide)), Group(256, 224, (resnets[0], *last)))


def prepared(entry: Entry, group: Group, dtype: str) -> library.Steps:
    """Return the steps of a network of a group, with its batch."""
    return library.prepare(
        entry.name, entry.model_options(), batch=group.batch, image_size=group.image_size, dtype=dtype
    )


class Compilations:
    """The compilations of the networks, each done once, also for a network in several groups."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._pool = ThreadPoolExecutor(3)
        self._prepared: dict[str, library.Steps] = {}
        self._compiled: dict[str, Future] = {}
        self._running: dict[str, library.Running] = {}
        self._texts: dict[int, str] = {}

    def start(self, entry: Entry, group: Group) -> str | None:
        """Trace a step here and compile it in a thread; return why not if tracing fails or the program is known."""
        if entry.label in self._compiled:
            return None
        try:
            found = prepared(entry, group, self._dtype)
            lowered = found.lower_train()
        except Exception as error:  # whatever one network raises, the others go on
            return reason(error)
        known = self._texts.setdefault(hash(lowered.as_text()), entry.label)
        if known != entry.label:
            return f"the same program as {known}"
        self._prepared[entry.label] = found
        self._compiled[entry.label] = self._pool.submit(_compiled, entry.label, lowered)
        return None

    def wait(self, seconds: float) -> None:
        """Wait for all compilations, but no longer than `seconds`."""
        wait(self._compiled.values(), timeout=max(0.0, seconds))

    def pending(self) -> list[str]:
        """Return the labels of the networks that are not compiled yet."""
        return [label for label, future in self._compiled.items() if not future.done()]

    def running(self, label: str) -> library.Running:
        """Return a compiled step with its state.

        Raises:
            Exception: whatever compilation raised.
        """
        if label not in self._running:
            self._running[label] = self._prepared[label].running(self._compiled[label].result())
        return self._running[label]

    def counts(self, label: str) -> dict[str, Any]:
        """Return the counts of a network."""
        summary, step = self._prepared[label].counted(), self._compiled[label].result()
        return {
            "params": summary.params,
            "flops_per_image": summary.flops,
            "train_temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        }


def run(setting: Setting) -> None:
    """Write a row for each network, group by group."""
    dtype = "bfloat16"
    result = setting.record("steps.json", dtype=dtype, rows=[])
    verdicts = Verdicts(record.read(setting.out / "correct.json"))
    every, compilations = groups(setting.rehearse), Compilations(dtype)
    first = every[:2]
    for entry, group in _in_turn(first):
        _start(entry, group, compilations, verdicts, result)
    print(f"traced, {setting.left():.0f} s left", flush=True)
    compilations.wait(setting.left() - _FOR_TIMING * setting.seconds)
    for group in first:
        measure(group, compilations, result, setting)
    while compilations.pending() and setting.left() > 0:
        compilations.wait(max(setting.left() / 2, _LEAST_WAIT))
        for group in first:
            measure(group, compilations, result, setting)
    for group in every[2:]:
        if setting.left() < setting.seconds / 3:
            break
        for entry in group.entries:
            _start(entry, group, compilations, verdicts, result)
        compilations.wait(setting.left() * (1 - _FOR_TIMING))
        measure(group, compilations, result, setting)
    if compilations.pending():
        for label in compilations.pending():
            result.add("rows", {"label": label, "not_measured": "it was still compiling"})
        sys.stdout.flush()
        os._exit(0)  # a compiling thread cannot be stopped


def _in_turn(groups: Sequence[Group]) -> Iterator[tuple[Entry, Group]]:
    """Yield the first network of each group, then the second, and so on, since groups have few algorithms in common."""
    rows = itertools.zip_longest(*([(entry, group) for entry in group.entries] for group in groups))
    return filter(None, itertools.chain.from_iterable(rows))


def _start(entry: Entry, group: Group, compilations: Compilations, verdicts: Verdicts, result: record.Record) -> None:
    objections = (verdicts.objection(entry.implementation, size, "bfloat16") for size in entry.maps)
    objection = next(filter(None, objections), None) or compilations.start(entry, group)
    if objection:
        result.add("rows", {"label": entry.label, "batch": group.batch, "not_measured": objection})


def _compiled(label: str, lowered: Any) -> Any:
    started = time.monotonic()
    compiled = lowered.compile()
    print(f"compiled {label} in {time.monotonic() - started:.0f} s", flush=True)
    return compiled


def measure(group: Group, compilations: Compilations, result: record.Record, setting: Setting) -> None:
    """Time the networks of a group that are compiled and not timed yet, with the plain one; do nothing without any."""
    known = {row["label"] for row in result.get("rows")} | set(compilations.pending())
    plain = group.entries[0].label
    fresh = [entry for entry in group.entries if entry.label not in known]
    if not fresh or plain in compilations.pending():
        return
    programs: dict[str, timing.Program] = {}
    repeats = setting.pick(5, 1)  # steps between two readings of the clock
    for entry in [group.entries[0], *fresh]:
        try:
            running = compilations.running(entry.label)
            running(1)
        except Exception as error:  # out of memory, or what the compiler refuses
            if entry in fresh:
                result.add("rows", {"label": entry.label, "batch": group.batch, "not_measured": reason(error)})
            continue
        programs[entry.label] = timing.several(running, repeats)
    if plain not in programs:
        return
    others = compilations.pending()
    times = timing.take_turns(programs, rounds=7, seconds=setting.pick(min(20.0, setting.left() / 3), 3.0))
    for entry in fresh:
        if entry.label not in programs:
            continue
        row = _row(
            entry, group, compilations, {label: [t / repeats for t in times[label]] for label in (plain, entry.label)}
        )
        result.add("rows", row | ({"while_compiling": others} if others else {}))
        print(f"{entry.label:<28}{row['train_ms']:>10.2f} ms{row['train_ratio']:>8.3f} × {plain}", flush=True)


def _row(entry: Entry, group: Group, compilations: Compilations, times: dict[str, list[float]]) -> dict[str, Any]:
    plain, own = times[group.entries[0].label], times[entry.label]
    by_round = [a / b for a, b in zip(own, plain, strict=True)]
    milliseconds, counts = timing.median(own), compilations.counts(entry.label)
    state = compilations.running(entry.label).state
    row = {
        "label": entry.label,
        "model": entry.name,
        "options": entry.model_options(),
        "batch": group.batch,
        "image_size": group.image_size,
        "rounds": len(own),
        "train_ms": milliseconds,
        "train_images_per_second": round(1e3 * group.batch / milliseconds, 1),
        "train_extremes_ms": [round(f(own), 3) for f in (min, max)],
        "train_ratio_to": group.entries[0].label,
        "train_ratio": round(milliseconds / timing.median(plain), 4),
        "train_ratio_of_rounds": [round(f(by_round), 4) for f in (min, max)],
        "paper_train_ratio": PAPER.get(entry.label.split()[0], (None, None))[1],
        "steps": int(state.step),
        "steps_that_were_not_finite": int(state.skipped),
    }
    if peak := devices.peak():
        operations = 3 * group.batch * counts["flops_per_image"]
        row["train_fraction_of_peak_flops"] = round(operations / (milliseconds / 1e3) / peak.flops, 4)
    return row | counts
