"""Score a trained network on its held-out data, each example once: `python -m aa_flax.evaluate --workdir=DIR`.

The network is that of the newest checkpoint, or of --checkpoint=best or a step. With --config the data of that config
are scored instead of the run's; they are seen as the run's were, whatever that config says of sizes and crops. With
--option=NAME=VALUE, any number of times, the network is used otherwise than by the run: one of segmentation with
--option=flip=True and --option=scales=0.75,1.0,1.25, or with --option=window=512. Of a --config the same options of the
task are taken. With --report=FOLDER the pictures and files that a run leaves of its scores go there. With --latency the
last line, one JSON object, also has the milliseconds from one image in memory to its prediction.
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags, logging
from flax import nnx

from aa_flax import data
from aa_flax.alive import told_if_slow
from aa_flax.config.command_line import config_value, define_checkpoint, define_config, define_workdir, fail, run
from aa_flax.config.schema import resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.recorded import DATA_DIR, found_again
from aa_flax.json_values import to_json
from aa_flax.literal import literal
from aa_flax.models.functional import functional
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.tasks import OPTIONS, Scores, Task, option_schemas
from aa_flax.tasks.scoring_options import define_scoring_options, parsed_options, scored_with, scoring_options
from aa_flax.training.program import Program
from aa_flax.training.scoring import make_scorer
from aa_flax.training.sharding import Layout, on_these_devices
from aa_flax.training.trained import load_model, make_predict


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_config(values)
    define_workdir(values)
    define_checkpoint(values)
    flags.DEFINE_string(
        "split", "", "Split to score instead of the config's held-out one, such as train[:10%].", flag_values=values
    )
    flags.DEFINE_string("data_dir", "", DATA_DIR, flag_values=values)
    flags.DEFINE_string("report", "", "Folder for pictures and files of the scores.", flag_values=values)
    define_scoring_options(values)
    flags.DEFINE_bool("latency", False, "Measure the time of one image.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Evaluate the network and print its scores."""
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    directory = RunDirectory(values.workdir)
    given = config_value(values, OPTIONS)
    config = directory.read_config()
    said: dict[str, Any] = {}  # options of scoring, of the given config
    if given is not None:
        other = resolve(given)
        fields = dataclasses.replace(other.data, data_dir=values.data_dir or other.data.data_dir)
        config = dataclasses.replace(config, data=fields, eval_batch_size=other.eval_batch_size)
        if other.task.name == config.task.name:
            said = {name: value for name, value in other.task.options.items() if name in scoring_options(config)}
    else:
        config = dataclasses.replace(config, data=found_again(config.data, values.data_dir))
    config = scored_with(config, {**said, **parsed_options(config, values.option)})
    config = on_these_devices(config)
    preprocessing = directory.read_preprocessing()
    layout = Layout.of(config)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    if given is None and preprocessing.data_fingerprint not in ("", dataset.fingerprint):
        logging.warning("%s: not the files that the run was trained on; scores may differ", dataset.folder)
    program = Program.of(config, preprocessing, layout, 1, shapes=True)
    program.task.check_dataset(dataset)
    model, step = load_model(directory, values.checkpoint)
    _, params, batch_stats = functional(model)
    split = values.split or config.data.eval_split
    variables = layout.place((params, batch_stats))
    source = dataset.split(split, program.task.targets)
    slow = f"compiling the network, then scoring {len(source)} examples"
    with jax.set_mesh(layout.mesh), told_if_slow(slow):
        scores = make_scorer(program)(variables, source)
    for line in program.task.lines(scores):
        print(literal(line))
    if values.report:
        _report(program.task, model, scores, source, Path(values.report).expanduser())
    result = {**scores.values, "examples": scores.examples, "step": step}
    if values.latency:
        result["latency_ms"] = round(latency(model, program.task, preprocessing), 3)
    last = {**result, "dataset": dataset.name, "split": split, "workdir": str(directory.path)}
    print(to_json(last))


def _report(task: Task, model: nnx.Module, scores: Scores, source: data.Source, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        task.report(model, scores, source, folder)
    except OSError as error:
        fail(f"--report={folder}: cannot be written ({error.strerror or error})")


def latency(model: nnx.Module, task: Task, preprocessing: Preprocessing, times: int = 20) -> float:
    """Return the milliseconds from one image in this process's memory to its prediction there, the median of `times`.

    The program is compiled before. Reading and resizing a photograph, and drawing, are not in it.
    """
    predict = make_predict(model, task, preprocessing)
    image = np.zeros((1, *preprocessing.image_size, preprocessing.channels), np.uint8)
    jax.device_get(predict(image))
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        jax.device_get(predict(image))
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, data.DataError), tasks=option_schemas)


if __name__ == "__main__":
    command()
