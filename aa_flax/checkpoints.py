"""Manage a run's checkpoints: `python -m aa_flax.checkpoints list|verify|prune|export --workdir=DIR`.

    list                       prints step, size, date and held-out score of each, and which is the best
    verify                     compares every file with its hash; status 1 if one differs
    prune --keep=2             deletes all but the newest two, the best and those that --keep_every=STEPS keeps
    export weights.safetensors writes the network of the newest, or of --checkpoint=best or a step, with its card; it
                               has all that `aa_flax.load(...)` and `predict --workdir=weights.safetensors` need

The best has the highest held-out score, of equal ones the first.

`prune` and `verify --delete_damaged` refuse to delete while a run trains in the directory.
"""

import time
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from aa_flax import weights
from aa_flax.config.command_line import define_checkpoint, define_workdir, fail, run
from aa_flax.inference.loading import predictor_of
from aa_flax.inference.sources import OfRun
from aa_flax.literal import literal
from aa_flax.runs.checkpoint_files import delete_checkpoint, saved_steps
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.held_out import HeldOut
from aa_flax.runs.manifest import damage
from aa_flax.runs.metrics import read_metrics
from aa_flax.runs.paths import files_below
from aa_flax.tasks import make_task


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_workdir(values, "Run directory.")
    flags.DEFINE_integer("keep", None, "prune: how many of the newest stay.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("keep_every", 0, "prune: steps that divide by it stay too.", lower_bound=0, flag_values=values)
    best = "prune: the one with the highest held-out score stays too; the run's keep_best if not given."
    flags.DEFINE_bool("keep_best", None, best, flag_values=values)
    flags.DEFINE_bool("delete_damaged", False, "verify: delete those that differ.", flag_values=values)
    define_checkpoint(values)
    flags.DEFINE_alias("step", "checkpoint", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> int | None:
    """Run one of the four commands; return the exit status."""
    commands: dict[str, tuple[Any, int]] = {
        "list": (_list, 0),
        "verify": (_verify, 0),
        "prune": (_prune, 0),
        "export": (_export, 1),
    }
    command, count = commands.get(argv[1] if len(argv) > 1 else "", (None, 0))
    if command is None or len(argv) != 2 + count:
        fail(f"expected list, verify, prune, or export and a file; got {' '.join(argv[1:]) or 'nothing'}")
    directory = RunDirectory(values.workdir)
    directory.read_config()  # fails if it is no run directory
    if not saved_steps(directory.checkpoints):
        fail(f"{directory.path} has no checkpoint yet")
    return command(directory, values, *argv[2:])


def _list(directory: RunDirectory, values: flags.FlagValues) -> None:
    held_out, steps = _held_out(directory), saved_steps(directory.checkpoints)
    best = held_out.best_step(steps)
    print(f"{'step':>10} {'MB':>10}  {'saved':<19}  {'':<4}  held-out {held_out.headline}")
    for step in steps:
        files = files_below(directory.checkpoints / str(step)).values()
        size = sum(file.size for file in files)
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(file.changed for file in files)))
        evaluated = held_out.at(step)
        found = "-" if evaluated is None else f"{evaluated.score:.4f}"
        print(f"{step:>10,} {size / 1e6:>10,.1f}  {saved:<19}  {'best' if step == best else '':<4}  {found}")


def _verify(directory: RunDirectory, values: flags.FlagValues) -> int:
    bad = []
    for step in saved_steps(directory.checkpoints):
        found = damage(directory.checkpoints / str(step))
        print(f"{step:>10,}  {found or 'as it was saved'}", flush=True)
        bad += [step] if found else []
    if bad and values.delete_damaged:
        _delete(directory, bad)
        return 0
    return 1 if bad else 0


def _prune(directory: RunDirectory, values: flags.FlagValues) -> None:
    keep = values.keep
    if keep is None:
        fail("prune needs --keep")
    steps = saved_steps(directory.checkpoints)
    kept = set(steps[-keep:])
    if values.keep_every:
        kept |= {step for step in steps if step % values.keep_every == 0}
    if directory.read_config().keep_best if values.keep_best is None else values.keep_best:
        best = _held_out(directory).best_step(steps)
        if best is not None:
            kept.add(best)
        elif values.keep_best:
            fail("--keep_best: no checkpoint was evaluated")
    _delete(directory, [step for step in steps if step not in kept])


def _export(directory: RunDirectory, values: flags.FlagValues, name: str) -> None:
    file = Path(name).expanduser()
    if file.suffix != ".safetensors":
        fail(f"{file}: expected a name that ends in .safetensors")
    predictor = predictor_of(OfRun(directory.path, values.checkpoint))
    predictor.save(file, run=predictor.about.config.label or directory.path.name)
    print(f"step {predictor.step:,} in {literal(str(file))}")


def _delete(directory: RunDirectory, steps: list[int]) -> None:
    with directory.locked():
        for step in steps:
            delete_checkpoint(directory.checkpoints, step)
    print(f"deleted: {', '.join(map(str, steps)) or 'none'}")


def _held_out(directory: RunDirectory) -> HeldOut:
    """Return the headline scores of the run's task."""
    headline = make_task(directory.read_config(), directory.read_preprocessing()).headline
    return HeldOut(headline, read_metrics(directory.log))


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, weights.WeightsError, OSError))


if __name__ == "__main__":
    command()
