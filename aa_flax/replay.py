"""Repeat a step that went wrong and describe it: `python -m aa_flax.replay --workdir=DIR [--step=N]`.

Trains again, deterministically, from the newest checkpoint before the step, and says which parameters, gradients and
losses of examples are not finite. The pictures of those examples, or of the three with the largest losses, are written
to DIR/replay. It needs the data of the run. The last line printed is one JSON object.
"""

import dataclasses
from pathlib import Path
from typing import NoReturn

import numpy as np
from absl import flags

from aa_flax import data
from aa_flax.config.command_line import define_workdir, fail, run
from aa_flax.data.images import encode_png
from aa_flax.data.recorded import DATA_DIR
from aa_flax.json_values import to_json
from aa_flax.literal import literal
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.training.replay import Replay, replay

_MOST = 16  # pictures to write at most


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_workdir(values, "Run directory.")
    flags.DEFINE_integer(
        "step", None, "Which step, from 0; the first that made the run diverge if not given.", flag_values=values
    )
    flags.DEFINE_string("data_dir", "", DATA_DIR, flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Replay the step, draw its examples and print what was found."""
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    directory = RunDirectory(values.workdir)
    found = replay(directory, values.step, values.data_dir)
    print(f"step {found.step}, replayed from step {found.replayed_from}")
    print(f"loss {found.loss:.6g}, norm of the gradient {found.gradient_norm:.6g}")
    print(f"largest parameter {found.largest_parameter:.6g}")
    for what, names in (("parameters", found.bad_parameters), ("gradients", found.bad_gradients)):
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"{what} that are infinite or NaN: {len(names)}{': ' if names else ''}{shown}")
    chosen = found.bad_examples or np.argsort(found.losses)[::-1][:3].tolist()
    print("examples with an infinite or NaN loss:" if found.bad_examples else "examples with the largest losses:")
    for position in chosen[:_MOST]:
        print(
            f"  index {found.indices[position]}, {literal(found.titles[position])}: loss {found.losses[position]:.6g}"
        )
    with directory.folder("replay") as folder:
        _draw(found, chosen[:_MOST], folder)
    told = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "images"}
    print(to_json({**told, "bad_examples": [found.indices[p] for p in found.bad_examples]}))


def _draw(found: Replay, positions: list[int], folder: Path) -> None:
    for position in positions:
        name = f"step-{found.step}-index-{found.indices[position]}.png"
        (folder / name).write_bytes(encode_png(found.images[position]))


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, data.DataError))


if __name__ == "__main__":
    command()
