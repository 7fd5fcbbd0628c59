"""A training run that says where it is, one line an event, and stays there for a moment: a target for `SIGKILL`.

Usage: drill_child.py CONFIG.json WORKDIR SECONDS
"""

import json
import sys
import time
from pathlib import Path

from aa_flax.runs import checkpoints
from aa_flax.training import loop, resolve, setup

PAUSE = float(sys.argv[3])


def told(owner, name, event):
    """Print before and after each call of a function."""
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
    told(checkpoints, "write_manifest", "save")  # all is written, and nothing counts yet
    told(checkpoints.ocp.AsyncCheckpointer, "save", "save")
    told(checkpoints.shutil, "rmtree", "delete")  # after the name is gone
    told(checkpoints.ocp.AsyncCheckpointer, "restore", "restore")
    outcome = loop.train(resolve(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
    print("finished", outcome.finished, flush=True)
