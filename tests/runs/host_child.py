"""One process of a training run, which records the examples that it sees and the scores.

Usage: host_child.py CONFIG.json WORKDIR SEEN
"""

import hashlib
import json
import sys
from pathlib import Path

import jax

from aa_flax.runs.exits import SAVED, leave
from aa_flax.runs.hosts import join, parting
from aa_flax.runs.preemption import Preempted
from aa_flax.training import loop, resolve, setup

if __name__ == "__main__":
    config_file, workdir, seen_folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    config = resolve(json.loads(config_file.read_text()))
    join(config.peer_timeout_seconds)
    seen, place_batch = [], setup.place_batch

    def noted(batch, layout):
        pieces = zip(batch["image"], batch["label"], strict=True)
        seen.append([hashlib.sha256(image.tobytes() + bytes([label])).hexdigest() for image, label in pieces])
        print("step", flush=True)
        return place_batch(batch, layout)

    setup.place_batch = noted
    with parting():
        try:
            outcome = loop.train(config, workdir)
        except Preempted as reason:
            leave(SAVED, str(reason))
    found = {
        "seen": seen,
        "process": jax.process_index(),
        "confusion": outcome.scores.details["confusion"],
        "loss": outcome.scores.values["loss"],
    }
    (seen_folder / f"{jax.process_count()}-{jax.process_index()}.json").write_text(json.dumps(found))
