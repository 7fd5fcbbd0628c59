"""One process of several that score a finished run together, which records its scores and what it has found itself.

Usage: score_child.py RUN SPLIT BATCH OPTIONS FOLDER; OPTIONS are those of the task that differ, as JSON.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from aa_flax import data
from aa_flax.models.functional import functional
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.hosts import join, parting
from aa_flax.training import scoring
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout
from aa_flax.training.trained import load_model

if __name__ == "__main__":
    run, split, batch, options, folder = sys.argv[1:]
    join(60)
    file, gathered = Path(folder) / f"{jax.process_count()}-{jax.process_index()}", scoring.gathered

    def noted(state):
        np.savez(file.with_suffix(".npz"), **state)
        return gathered(state)

    scoring.gathered = noted
    with parting():
        directory = RunDirectory(run)
        config = directory.read_config()
        task = dataclasses.replace(config.task, options={**config.task.options, **json.loads(options)})
        config = dataclasses.replace(config, eval_batch_size=int(batch), task=task)
        layout = Layout.of(config)
        program = Program.of(config, directory.read_preprocessing(), layout, 1, shapes=True)
        _, params, batch_stats = functional(load_model(directory)[0])
        dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
        with jax.set_mesh(layout.mesh):
            variables, source = layout.place((params, batch_stats)), dataset.split(split, program.task.targets)
            scores = scoring.make_scorer(program)(variables, source)
    found = {"values": scores.values, "details": scores.details, "examples": scores.examples}
    file.with_suffix(".json").write_text(json.dumps(found))
