"""Print what a trained network predicts for image files: `python -m aa_flax.predict --workdir=DIR IMAGE...`.

It needs only the run directory. Photographs are prepared as the held-out images are; `aa_flax.data.photo` says how
files of another size, colour or depth are treated.

    python -m aa_flax.predict --workdir=DIR --attention=FOLDER --image_size=384 IMAGE...

also draws FOLDER/NAME-attention.png for each image: what attention pooling attends to or, in a network that augments
its convolutions, what each head attends to from one pixel, the centre or --query=ROW,COLUMN. A larger --image_size than
that of training gives finer maps; it may change the prediction.
"""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import jax
from absl import flags

from aa_flax.config.command_line import define_workdir, fail, height_and_width, run
from aa_flax.config.fields import rules_of
from aa_flax.data.photo import PhotoError, load_photo
from aa_flax.drawing.photo_attention import AttentionError, draw_photos, layers_to_draw, picture_files
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.tasks import TASKS, make_task, task_class
from aa_flax.training.trained import load_model, make_predict


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command: its own, and the display options of the run's task."""
    define_workdir(values)
    attention = "Folder for a picture of what the network attends to in each image."
    flags.DEFINE_string("attention", "", attention, flag_values=values)
    size = "SIDE or HEIGHTxWIDTH in pixels; the run's own if not given."
    flags.DEFINE_string("image_size", None, size, flag_values=values)
    query = "ROW,COLUMN of the pixel to draw the attention of; the centre if not given."
    flags.DEFINE_list("query", [], query, flag_values=values)
    for display in _displays(sys.argv):
        _define_display(display, values)


def main(argv: list[str], values: flags.FlagValues) -> int:
    """Print the prediction for each file; return status 1 if some file could not be read."""
    files = argv[1:]
    if not files:
        fail("no image given: python -m aa_flax.predict --workdir=DIR IMAGE...")
    directory = RunDirectory(Path(values.workdir))
    config, preprocessing = directory.read_config(), directory.read_preprocessing()
    task = make_task(config, preprocessing)
    display = task.display(**{field.name: values[field.name].value for field in dataclasses.fields(task.display)})
    size = preprocessing.image_size
    if values.image_size is not None:
        size = height_and_width("image_size", values.image_size)
    query = _query(values, size)
    photos, errors = {}, {}
    for file in files:
        try:
            photos[file] = load_photo(file, preprocessing.view(size), preprocessing.channels)
        except PhotoError as error:
            errors[file] = error
    predictions: dict[str, Any] = {}
    pictures: dict[str, Path] = {}
    if photos:
        model, _ = load_model(directory)
        predict = make_predict(model, task, preprocessing)
        try:
            jax.eval_shape(predict, next(iter(photos.values()))[None])
        except ValueError as error:
            fail(f"--image_size={values.image_size}: {error}")
        layers = layers_to_draw(model, query is not None) if values.attention else []
        pictures = picture_files(Path(values.attention), photos) if layers else {}
        for file, photo in photos.items():
            predictions[file] = jax.tree.map(lambda array: array[0], jax.device_get(predict(photo[None])))
        if layers:
            captions = {file: task.captions(prediction) for file, prediction in predictions.items()}
            draw_photos(model, preprocessing, photos, captions, layers, query or (size[0] // 2, size[1] // 2), pictures)
    for file in files:
        if file in errors:
            print(f"error: {errors[file]}", file=sys.stderr)
            continue
        print(file)
        for line in task.describe(predictions[file], display):
            print(line)
        if file in pictures:
            print(f"  attention: {pictures[file]}")
    return 1 if errors else 0


def _displays(argv: Sequence[str]) -> list[type]:
    """Return what the task of the run in `argv` can be asked to print; where none is named, what each task can be."""
    given = re.search(r"(?:^|\n)--?workdir[=\n]([^\n]*)", "\n".join(argv))
    if given:
        with contextlib.suppress(RunDirectoryError, ValueError):  # `main` says what is wrong
            return [task_class(RunDirectory(Path(given[1])).read_config().task.name).display]
    return [task_class(name).display for name in TASKS]


def _define_display(display: Any, values: flags.FlagValues) -> None:
    """Define a flag for each field of a dataclass that no other has defined."""
    kinds: dict[type, Any] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    types, defaults = get_type_hints(display), dataclasses.asdict(display())
    for name, rules in rules_of(display).items():
        if name in values:
            continue
        kinds[types[name]](name, defaults[name], f"{rules.meaning[:1].upper()}{rules.meaning[1:]}.", flag_values=values)
        for accepted, fits in rules.accepts:
            flags.register_validator(name, fits, f"must be {accepted}", flag_values=values)


def _query(values: flags.FlagValues, size: tuple[int, int]) -> tuple[int, int] | None:
    given = values.query
    if not given:
        return None
    if not values.attention:
        fail("--query goes with --attention=FOLDER")
    fits = len(given) == 2 and all(number.isdecimal() for number in given)
    if not fits or int(given[0]) >= size[0] or int(given[1]) >= size[1]:
        fail(f"--query must be ROW,COLUMN of a pixel of a {size[0]}x{size[1]} image, got {','.join(given)}")
    return int(given[0]), int(given[1])


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, AttentionError))


if __name__ == "__main__":
    command()
