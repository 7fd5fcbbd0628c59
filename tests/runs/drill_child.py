"""A training run that prints one line for each event and pauses there, so that `SIGKILL` can hit it.

Usage: drill_child.py CONFIG.json WORKDIR SECONDS

A lease in a bucket ends after three seconds instead of 90.
"""

import json
import sys
import time
from pathlib import Path

from aa_flax.runs import checkpoint_files, checkpoints
from aa_flax.runs.buckets import lease
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
    lease.RENEWED, lease.EXPIRED, lease._LOOK = 0.5, 3.0, 0.5
    told(setup, "place_batch", "step")
    told(checkpoint_files, "write_manifest", "save")  # all files are written, but the checkpoint does not count yet
    told(checkpoints.ocp.AsyncCheckpointer, "save", "save")
    told(checkpoint_files, "remove_tree", "delete")  # after the checkpoint has lost its name
    told(checkpoints.ocp.AsyncCheckpointer, "restore", "restore")
    outcome = loop.train(resolve(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2])
    print("finished", outcome.finished, flush=True)
