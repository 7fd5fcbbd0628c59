"""Count what a step needs of a TPU or GPU, without such a device: `python -m aa_flax.plan --topology=NAME ...`.

Compiles the training step, or with --mode=infer the forward pass, of a network (--model) or of a run (--config=FILE,
and --config.FIELD=VALUE with it). It compiles for a TPU slice, named as a topology (v5e:4x4) or as Cloud TPU does
(v5litepod-16), or for NVIDIA GPUs of one machine (h100:8, h200:1, a100:4, l4:1). Prints for each chip what is counted
in the compiled program (memory, FLOPs, bytes, kernels and collectives) and the least time that these allow at the
chip's published peaks. --baseline compares with another network; --sweep=batch looks for the largest batch that fits.
A large network takes a minute or two. TPUs need `libtpu`, which runs on Linux machines with x86-64 processors, and GPUs
need JAX's plugin for CUDA (Linux). --verbosity=0 shows which implementation of attention was chosen.
"""

import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from absl import flags
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from aa_flax import data
from aa_flax.analysis.compiler import CompilerError, TargetError
from aa_flax.analysis.plan import Plan, check_batch, plan
from aa_flax.analysis.plan_report import as_json, print_plan
from aa_flax.analysis.programs import Mode, Subject, of_config, of_model
from aa_flax.analysis.sweep import sweep_batch
from aa_flax.analysis.targets import Target, compiler_of, find_target
from aa_flax.config.command_line import config_value, define_config, fail, height_and_width, run
from aa_flax.config.schema import resolve
from aa_flax.json_values import to_json
from aa_flax.tasks import OPTIONS, option_schemas


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_config(values)
    flags.DEFINE_string("model", None, "Name of a network, instead of a config.", flag_values=values)
    flags.DEFINE_string(
        "topology", None, "v5e:2x2, v4:2x2x1, v5litepod-16, h100:8, ...", required=True, flag_values=values
    )
    flags.DEFINE_integer(
        "batch",
        None,
        "Images of all chips together; that of the config if there is one. A sweep starts from it.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "infer"],
        "Whole optimiser step, or forward pass (of a detector to its detections).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "image_size", None, "SIDE or HEIGHTxWIDTH in pixels; the network's own if not given.", flag_values=values
    )
    flags.DEFINE_string("baseline", None, "Network to compare with, everything else being equal.", flag_values=values)
    flags.DEFINE_enum("sweep", None, ["batch"], "batch: find the largest that fits.", flag_values=values)
    flags.DEFINE_string(
        "scope",
        "",
        "Count by itself what comes from operations with this in their names, such as roi_align; with --json.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.", flag_values=values)
    flags.DEFINE_string("hlo", None, "File to write the compiled program to, as text.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Compile the program, count what it needs and print the plan."""
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    wanted = find_target(values.topology)
    mode: Mode = "train" if values.mode == "train" else "infer"
    subject = _subject(values, mode)
    baseline = subject.with_model(values.baseline) if values.baseline else None
    hlo = Path(values.hlo).expanduser() if values.hlo else None
    if hlo and (hlo.is_dir() or not hlo.parent.is_dir()):
        fail(f"--hlo: {hlo} is a folder" if hlo.is_dir() else f"--hlo: no such folder: {hlo.parent}")
    if values.scope and not values.json:
        fail("--scope needs --json")
    compiler = compiler_of(wanted)
    compiler.prepare()
    mesh = compiler.mesh_of(wanted)
    compiled = functools.partial(_compiled, mode=mode, wanted=wanted, mesh=mesh, told=bool(values.sweep))
    tried: list[Plan] = []
    if values.sweep:
        found, tried = sweep_batch(subject, mode, wanted, mesh, compiled)
    else:
        check_batch(subject, mode, wanted, mesh)
        found = compiled(subject)
    other = compiled(baseline.with_batch(found.batch)) if baseline else None
    if hlo and found.hlo:
        hlo.write_text(found.hlo)
    elif hlo:
        print(f"nothing was compiled that fits, so nothing is written to {hlo}", file=sys.stderr)
    if values.json:
        command = shlex.join(["python", "-m", "aa_flax.plan", *sys.argv[1:]])
        print(to_json(as_json(found, other, tried, command, values.scope)))
    else:
        print_plan(found, other, tried)


def _subject(values: flags.FlagValues, mode: Mode) -> Subject:
    """Return the subject that the command line asks for, with its batch."""
    config, name = config_value(values, OPTIONS), values.model
    size = height_and_width("image_size", values.image_size) if values.image_size is not None else None
    batch = None
    if name is not None and config is None:
        subject = of_model(name, size)
    elif name is None and config is not None:
        resolved = resolve(config)
        subject = of_config(resolved, size)
        batch = resolved.batch_size if mode == "train" else resolved.eval_batch_size
    else:
        fail("one of --model=NAME and --config=FILE must be given, and not both")
    batch = batch if values.batch is None else values.batch
    if batch is None:
        fail("--batch must be given with --model: images of all chips together")
    return subject.with_batch(batch)


def _compiled(subject: Subject, mode: Mode, wanted: Target, mesh: Mesh, told: bool) -> Plan:
    with _progress(f"compiling {subject.config.model.name} for {wanted.topology}, batch {subject.config.batch_size:,}"):
        found = plan(subject, mode, wanted, mesh)
    if told:
        print(f"  batch {found.batch:,} {'fits' if found.fits else 'does not fit'}", file=sys.stderr, flush=True)
    return found


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
    """Show `text` and the time that has passed on standard error while open: one live line on a terminal, else two."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            progress.add_task(text, total=None)
            yield
        return
    print(f"{text} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    yield
    print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def command() -> NoReturn:
    """Run the command line and exit."""
    run(
        main,
        define,
        expected=(TargetError, CompilerError, data.DataError),
        tasks=option_schemas,
    )


if __name__ == "__main__":
    command()
