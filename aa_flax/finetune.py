"""Learn a folder of photographs, from a trained network: `python -m aa_flax.finetune FOLDER --from=WEIGHTS`.

FOLDER has photographs in a folder for each kind of thing, with train/ and val/ above them or not; or photographs with
boxes, as COCO, Pascal VOC or YOLO have them; or with a PNG each that says what every pixel is. Where no part is held
out, a fifth is. WEIGHTS is a run directory, the folder of a hub, a safetensors file with its card, or a file of timm or
torchvision; without it the network learns from nothing. Network, size and schedule are chosen; fields of the config can
be set on the command line: `--config.epochs=20`. The same command resumes a run that was stopped; for a finished one it
prints the result again. The last line printed is one JSON object.
"""

import shlex
from typing import NoReturn

from absl import flags

from aa_flax.config.changes import define_changes
from aa_flax.config.command_line import fail
from aa_flax.data.sets.looking import KINDS
from aa_flax.finetuning.run import directory_for, learn, planned, tell
from aa_flax.runs.exits import leave
from aa_flax.runs.hosts import join
from aa_flax.runs.paths import RunPath, files_below
from aa_flax.runs.preemption import leaving
from aa_flax.train import command, show
from aa_flax.training import determinism


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_changes(values)
    flags.DEFINE_string("from", "", "Trained network to start from; nothing if not given.", flag_values=values)
    flags.DEFINE_string("workdir", "", "Run directory; runs/NAME if not given.", flag_values=values)
    words = "What FOLDER holds, where it does not tell; found by looking if not given."
    flags.DEFINE_enum("kind", "", ["", *KINDS], words, flag_values=values)
    words = "Leave out photographs that are missing or cannot be read."
    flags.DEFINE_bool("skip_damaged", False, words, flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Choose the config, train, and print the result and how to use the network."""
    if len(argv) != 2:
        fail(f"expected one folder of photographs, got {' '.join(argv[1:]) or 'none'}")
    changes = values["config"].value or {}
    if changes.get("deterministic"):
        determinism.ask()
    join(changes.get("peer_timeout_seconds", 60))
    directory = directory_for(argv[1], values.workdir)
    asked = dict(kind=values.kind, skip_damaged=values.skip_damaged, changes=changes)
    config, said = planned(argv[1], getattr(values, "from"), directory, **asked)
    tell(said)
    with leaving():
        result = learn(config, directory, leave=leave)
    if result is not None:
        tell(how_to_use(directory.path))
        show(directory, result)


def how_to_use(folder: RunPath) -> list[str]:
    """Return the lines that say how to use the trained network of a run directory."""
    pictures = ", ".join(name for name in files_below(folder) if name.endswith(".png") and "/" not in name)
    return [
        f"the run: {folder}{f' ({pictures})' if pictures else ''}",
        f'from Python:   aa_flax.load({str(folder)!r})("photo.jpg")',
        f"from a shell:  aa-flax predict --workdir={shlex.quote(str(folder))} photo.jpg",
    ]


def main_command() -> NoReturn:
    """Run the command line and exit."""
    command(main, define)


if __name__ == "__main__":
    main_command()
