"""Classify image files with a trained run: `python -m aa_flax.predict --workdir=DIR IMAGE...`.

Needs the run directory alone. How a file of another size, colour or depth is treated: `aa_flax.data.photo`.

    python -m aa_flax.predict --workdir=DIR --attention=FOLDER --image_size=384 IMAGE...

draws besides, for each image, FOLDER/NAME-attention.png: what attention pooling looks at or, in a network that augments
its convolutions, what each head looks at from one pixel, the centre or --query=ROW,COLUMN. A larger --image_size than
that of training gives finer maps; it may change what the network sees.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx

from aa_flax.config.command_line import fail, run
from aa_flax.data.photo import PhotoError, load_photo
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing.photo_attention import AttentionError, draw_photos, layers_to_draw, picture_files
from aa_flax.models.functional import functional
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.training.trained import load_model


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string("workdir", None, "Run directory of a trained network.", required=True, flag_values=values)
    flags.DEFINE_integer("top", 5, "How many classes to print for each image.", lower_bound=1, flag_values=values)
    flags.DEFINE_string(
        "attention", "", "Folder for a picture of what the network attends to in each image.", flag_values=values
    )
    flags.DEFINE_list(
        "image_size", [], "SIDE or HEIGHT,WIDTH in pixels; the run's own if not given.", flag_values=values
    )
    flags.DEFINE_list(
        "query", [], "ROW,COLUMN of the pixel to draw the attention of; the centre if not given.", flag_values=values
    )


def main(argv: list[str], values: flags.FlagValues) -> int:
    """Print the most probable classes of each file; status 1 if some file could not be read."""
    files = argv[1:]
    if not files:
        fail("no image given: python -m aa_flax.predict --workdir=DIR IMAGE...")
    directory = RunDirectory(Path(values.workdir))
    directory.read_config()
    preprocessing = directory.read_preprocessing()
    size = _image_size(values.image_size) or preprocessing.image_size
    query = _query(values, size)
    photos, errors = {}, {}
    for file in files:
        try:
            photos[file] = load_photo(file, preprocessing.view(size), preprocessing.channels)
        except PhotoError as error:
            errors[file] = error
    scores, pictures = {}, {}
    if photos:
        model, _ = load_model(directory)
        classify = _classifier(model, preprocessing, size, ",".join(values.image_size))
        layers = layers_to_draw(model, query is not None) if values.attention else []
        pictures = picture_files(Path(values.attention), photos) if layers else {}
        scores = {file: np.asarray(classify(photo[None])) for file, photo in photos.items()}
        if layers:
            draw_photos(model, preprocessing, photos, scores, layers, query or (size[0] // 2, size[1] // 2), pictures)
    for file in files:
        if file in errors:
            print(f"error: {errors[file]}", file=sys.stderr)
            continue
        print(file)
        for label in np.argsort(-scores[file])[: values.top]:
            print(f"  {100 * scores[file][label]:6.2f} %  {preprocessing.class_names[label]}")
        if file in pictures:
            print(f"  attention: {pictures[file]}")
    return 1 if errors else 0


def _classifier(
    model: nnx.Module, preprocessing: Preprocessing, size: tuple[int, int], asked: str
) -> Callable[[Any], jax.Array]:
    """From one photo [1, h, w, c] to the probability of each class."""
    apply, params, batch_stats = functional(model)

    @jax.jit
    def probabilities(image: Any) -> jax.Array:
        logits, _ = apply(params, batch_stats, preprocessing.normalize(image))
        return jax.nn.softmax(logits.astype(jax.numpy.float32))[0]

    try:
        jax.eval_shape(probabilities, jax.ShapeDtypeStruct((1, *size, preprocessing.channels), np.uint8))
    except ValueError as error:
        fail(f"--image_size={asked}: {error}")
    return probabilities


def _image_size(given: list[str]) -> tuple[int, int] | None:
    if not given:
        return None
    if len(given) > 2 or not all(number.isdecimal() and int(number) for number in given):
        fail(f"--image_size must be SIDE or HEIGHT,WIDTH in pixels, such as 384 or 384,256; got {','.join(given)}")
    return int(given[0]), int(given[-1])


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


if __name__ == "__main__":
    run(main, define, expected=(RunDirectoryError, AttentionError))
