"""Print what a trained network predicts for image files: `python -m aa_flax.predict --workdir=DIR IMAGE|FOLDER...`.

It needs only the run directory, or in its place a file of weights with its card or a folder of `aa_flax.hub`; it says
what `aa_flax.load(DIR)` says in Python. Photographs are prepared as the held-out images are; `aa_flax.data.photo` says
how files of another size, colour or depth are treated. Of a folder all images are taken, at any depth, in the order of
their names. Where no image could be seen nothing is written.

    python -m aa_flax.predict --workdir=DIR --pictures=FOLDER --json=FILE IMAGE...

also draws FOLDER/NAME-predicted.png for each image, and writes one JSON object: the predictions by file.

    python -m aa_flax.predict --workdir=DIR --masks=FOLDER IMAGE...

also writes FOLDER/NAME-masks.png of each image's size, where the network draws masks: pixels have the number of what is
seen there, of objects from 1 in the order of the lines and of JSON.

    python -m aa_flax.predict --workdir=DIR --attention=FOLDER --image_size=384 IMAGE...

also draws FOLDER/NAME-attention.png for each image: what attention pooling attends to; in a network that augments its
convolutions, what each head attends to from one pixel, the centre or --query=ROW,COLUMN; in a detector on such a
network, what each object that it found attends to. A larger --image_size than that of training gives finer maps; it may
change the prediction.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from aa_flax.alive import told_if_slow
from aa_flax.config.command_line import define_checkpoint, define_workdir, fail, height_and_width, run
from aa_flax.data.images import as_pixels
from aa_flax.data.photo import PhotoError, photo_files, read_photo
from aa_flax.drawing.photo_attention import AttentionError, draw_photos, layers_to_draw, picture_files
from aa_flax.inference.loading import predictor_of
from aa_flax.inference.predictor import Seen, see
from aa_flax.inference.sources import opened
from aa_flax.json_values import to_json
from aa_flax.literal import literal
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectoryError
from aa_flax.tasks import make_task, task_class
from aa_flax.tasks.display import define_displays, display_of
from aa_flax.tasks.scoring_options import define_scoring_options, parsed_options, scored_with
from aa_flax.weights import WeightsError


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command: its own, and the display options of the run's task."""
    define_workdir(values)
    define_checkpoint(values)
    define_scoring_options(values)
    flags.DEFINE_string("pictures", "", "Folder for a picture of what is found in each image.", flag_values=values)
    flags.DEFINE_string("json", "", "File for the predictions as JSON.", flag_values=values)
    masks = "Folder for a picture of the masks in each image, whose pixels are numbers."
    flags.DEFINE_string("masks", "", masks, flag_values=values)
    attention = "Folder for a picture of what the network attends to in each image."
    flags.DEFINE_string("attention", "", attention, flag_values=values)
    size = "SIDE or HEIGHTxWIDTH in pixels; the run's own if not given."
    flags.DEFINE_string("image_size", None, size, flag_values=values)
    unused = "Accepted as by aa_flax.evaluate; the prediction for a file needs no data set."
    flags.DEFINE_string("data_dir", "", unused, flag_values=values)
    query = "ROW,COLUMN of the pixel to draw the attention of; the centre if not given."
    flags.DEFINE_list("query", [], query, flag_values=values)
    define_displays(_task_of_run(sys.argv), values)


def main(argv: list[str], values: flags.FlagValues) -> int:
    """Print the prediction for each file; return status 1 if some file could not be read."""
    files, errors = photo_files(argv[1:])
    if not argv[1:]:
        fail("no image given: python -m aa_flax.predict --workdir=DIR IMAGE...")
    source = opened(values.workdir, checkpoint=values.checkpoint)
    config, preprocessing = source.read_config(), source.read_preprocessing()
    if preprocessing.of_signals:
        fail("photographs are predicted, and this network was trained on signals; aa_flax.evaluate scores it")
    options = parsed_options(config, values.option)
    task = make_task(scored_with(config, options), preprocessing)
    display, said = display_of(task, config.task.name, values, source.read_result)
    if values.pictures and not hasattr(task, "draw"):
        fail(f"--pictures: {config.task.name} finds nothing in a photograph that could be drawn; --attention draws")
    if values.masks and not getattr(task, "has_masks", False):
        fail("--masks: this network gives no masks; those of segmentation do, and mask_rcnn_*")
    size = preprocessing.height_and_width
    if values.image_size is not None:
        size = height_and_width("image_size", values.image_size)
    query = _query(values, size)
    seen: dict[str, Seen] = {}
    for file in files:
        if file not in errors:
            try:
                seen[file] = see(preprocessing, size, read_photo(file, preprocessing.channels))
            except PhotoError as error:
                errors[file] = error
    for line in said if seen else ():
        print(line, file=sys.stderr)
    predictions: dict[str, Any] = {}
    attention: dict[str, Path] = {}
    if seen:
        predictor = predictor_of(source, options=options)
        try:
            predictor = predictor.at(size)
        except ValueError as error:
            fail(f"--image_size={values.image_size}: {error}")
        drawer = getattr(task, "attention_drawer", None) if values.attention and query is None else None
        draw_found = drawer(predictor.model) if drawer else None
        layers = layers_to_draw(predictor.model, query is not None) if values.attention and not draw_found else []
        attention = picture_files(Path(values.attention), seen) if values.attention else {}
        compiling = f"compiling the network for {size[0]}x{size[1]} pixels; photographs after the first are fast"
        for number, (file, each) in enumerate(seen.items()):
            with told_if_slow(compiling) if number == 0 else contextlib.nullcontext():
                row = predictor.row(each)
            predictions[file] = predictor.found(row, each)
            if draw_found:
                with _writing(attention[file]):
                    draw_found(each.pixels, row, each.placement, display, attention[file])
        if layers:
            # What lies in a photograph has no one name that could stand over all of it.
            whole = {} if hasattr(task, "attention_drawer") else predictions
            captions = {file: task.captions(prediction) for file, prediction in whole.items()}
            photos = {file: each.pixels for file, each in seen.items()}
            sizes = {file: (int(each.placement[4]), int(each.placement[5])) for file, each in seen.items()}
            draw_photos(predictor.model, preprocessing, photos, captions, layers, query, attention, sizes)
    pictures = _pictures(values.pictures, task, predictions, display, preprocessing.channels)
    masks = _masks(values.masks, task, predictions, display)
    if values.json and predictions:
        _write_json(Path(values.json).expanduser(), task, predictions, display)
    for file in files:
        if file in errors:
            print(f"error: {literal(str(errors[file]))}", file=sys.stderr)
            continue
        print(literal(file))
        for line in task.describe(predictions[file], display):
            print(literal(line))
        for kind, drawn in (("attention", attention), ("picture", pictures), ("masks", masks)):
            if file in drawn:
                print(f"  {kind}: {literal(str(drawn[file]))}")
    return 1 if errors else 0


def _pictures(folder: str, task: Any, predictions: dict[str, Any], display: Any, channels: int) -> dict[str, Path]:
    """Draw each prediction over its photograph, if a folder is given, and return the files."""
    files = picture_files(Path(folder), predictions, "-predicted.png", "--pictures") if folder and predictions else {}
    for name, file in files.items():
        with _writing(file):
            task.draw(predictions[name], as_pixels(read_photo(name, channels)), display, file)
    return files


def _masks(folder: str, task: Any, predictions: dict[str, Any], display: Any) -> dict[str, Path]:
    """Write the masks of each prediction as a picture of numbers, if a folder is given, and return the files."""
    drawn = {name: task.mask_picture(each, display) for name, each in predictions.items()} if folder else {}
    files = picture_files(Path(folder), drawn, "-masks.png", "--masks") if drawn else {}
    for name, file in files.items():
        with _writing(file):
            drawn[name].save(file)
    return files


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AttentionError(f"{file}: cannot be written ({error.strerror})") from error


def _write_json(file: Path, task: Any, predictions: dict[str, Any], display: Any) -> None:
    """Write the predictions as one JSON object, by the name of the image as it was given."""
    if not hasattr(task, "values"):
        fail(f"--json: the task {type(task).__name__} does not give its predictions as JSON")
    try:
        file.write_text(to_json({name: task.values(each, display) for name, each in predictions.items()}, indent=1))
    except OSError as error:
        fail(f"--json={file}: cannot be written ({error.strerror})")


def _task_of_run(argv: Sequence[str]) -> str:
    """Return the name of the task of the run in `argv`, "" if none can be read."""
    given = re.search(r"(?:^|\n)--?workdir[=\n]([^\n]*)", "\n".join(argv))
    if given:
        with contextlib.suppress(RunDirectoryError, ValueError):  # `main` says what is wrong
            name = opened(given[1]).read_config().task.name
            task_class(name)
            return name
    return ""


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
    run(main, define, expected=(RunDirectoryError, CheckpointError, AttentionError, WeightsError))


if __name__ == "__main__":
    command()
