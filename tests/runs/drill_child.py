"""A training run that prints one line for each event and pauses there, so that `SIGKILL` can hit it.

Usage: drill_child.py CONFIG.json WORKDIR SECONDS
"""

import json
import sys
import time
from pathlib import Path

from aa_flax.runs import checkpoint_files, checkpoints
from aa_flax.training import loop, resolve, setup

PAUSE = float(sys.argv[3])


def told(owner, name, event):
    """Make a function print `event` before each call and, unless that is "step", pause, and print after the call."""
    original = getattr(owner, name)

    def wrapped(*arguments, **options):
        print(event, flush=True)
        time.sleep(PAUSE * (event != "step"))
        result = original(*arguments, **options)
        if event != "step":
            print(f"{event} over", flush=True)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    told(setup, "place_batch", "step")
    told(checkpoint_files, "write_manifest", "save")  # all files are written, but the checkpoint does not count yet
    told(checkpoints.ocp.AsyncCheckpointer, "save", "save")
    told(checkpoint_files.shutil, "rmtree", "delete")  # after the checkpoint has lost its name
    told(checkpoints.ocp.AsyncCheckpointer, "restore", "restore")
    outcome = loop.train(resolve(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
    print("finished", outcome.finished, flush=True)
