"""Pictures of what a trained network attends to, one for each of some photographs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing.attention_maps import attending_paths, attention_maps, last_of_each_stage
from aa_flax.drawing.pooling_figures import captioned_figure
from aa_flax.drawing.query_attention import attention_figure

_AT_ONCE = 16  # photos in a batch
_LONGEST = 255  # bytes of a file's name, on most file systems


class AttentionError(Exception):
    """A network without attention to draw, or a file or folder that cannot be written. The message is one line."""


def layers_to_draw(model: nnx.Module, of_a_query: bool) -> list[str]:
    """Return the dotted paths of the layers to draw: attention pooling, or else the last attending layer of each stage.

    Args:
        model: a network of the library.
        of_a_query: whether the user named a query pixel; then pooling, which has no query pixel, is not chosen.

    Raises:
        AttentionError: the network has no such layer.
    """
    layers, poolings = attending_paths(model)
    if poolings and not of_a_query:
        return poolings[:1]
    if layers:
        return last_of_each_stage(layers)
    if poolings:
        raise AttentionError("--query: this network attends in its pooling alone, whose queries are learned tokens")
    raise AttentionError(
        f"--attention: this {type(model).__name__} has no attention to draw; networks named aa_* have, and all with "
        "pooling='attention'"
    )


def picture_files(
    folder: Path, photos: Iterable[str], end: str = "-attention.png", flag: str = "--attention"
) -> dict[str, Path]:
    """Create `folder` and return the file of each photo's picture in it: NAME-attention.png, where NAME is the photo's.

    If two photos have the same name, the second gets a number; a name too long for a file system is cut. A file never
    is one of the photos; a picture of an earlier call is overwritten.

    Raises:
        AttentionError: the folder cannot be made.
    """
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AttentionError(f"{flag}={folder}: cannot be made a folder ({error.strerror})") from error
    files: dict[str, Path] = {}
    # Some file systems do not distinguish names that differ in case only.
    taken = {str(Path(photo).resolve()).casefold() for photo in photos}
    for photo in photos:
        number, file = 1, folder / _named(photo, end)
        while str(file.resolve()).casefold() in taken:
            number += 1
            file = folder / _named(photo, f"-{number}{end}")
        taken.add(str(file.resolve()).casefold())
        files[photo] = file
    return files


def _named(photo: str, end: str) -> str:
    """Return the name of a photo with another end, cut to the length that file systems take."""
    stem = Path(photo).stem
    while len(os.fsencode(stem + end)) > _LONGEST:
        stem = stem[:-1]
    return stem + end


def draw_photos(
    model: nnx.Module,
    preprocessing: Preprocessing,
    photos: Mapping[str, UInt8[np.ndarray, "h w c"]],
    captions: Mapping[str, Sequence[tuple[int, str]]],
    layers: Sequence[str],
    query: tuple[int, int] | None,
    files: Mapping[str, Path],
    sizes: Mapping[str, tuple[int, int]],
) -> None:
    """Write a picture of what the network attends to in each photo.

    Args:
        model: the network.
        preprocessing: the run's preprocessing, which normalises the pixels.
        photos: the pixels of each photo, 0 to 255, by its name; all of one size.
        captions: (token, words) of each predicted class, the most certain first, by the same names; a photo without any
            is titled by its query pixel.
        layers: the result of `layers_to_draw`.
        query: (row, column) of the pixel whose attention is drawn, None for the centre of each photo; attention pooling
            ignores it.
        files: the PNG to write for each photo, by the same names.
        sizes: the height and width of what each photo fills of its canvas, from the corner on; nothing else is drawn.

    Raises:
        AttentionError: the query lies outside a photo, or a file cannot be written.
    """
    _, poolings = attending_paths(model)
    pixels_of = {name: query or (height // 2, width // 2) for name, (height, width) in sizes.items()}
    for name, (row, column) in pixels_of.items() if layers[0] not in poolings else ():
        height, width = sizes[name]
        if row >= height or column >= width:
            raise AttentionError(
                f"--query={row},{column} lies outside {name}, which fills {height}x{width} pixels of the input"
            )
    names = list(photos)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        pixels = np.stack([photos[name] for name in some])
        queries = list(dict.fromkeys(pixels_of[name] for name in some))
        maps = attention_maps(model, preprocessing.normalize(jnp.asarray(pixels)), layers=layers, queries=queries)
        for i, name in enumerate(some):
            photo = pixels[i : i + 1]
            try:
                if layers[0] in poolings:
                    weights = maps[layers[0]][i : i + 1, 0]
                    captioned_figure(photo, weights, [captions[name]], file=files[name])
                else:
                    at = queries.index(pixels_of[name])
                    own = {path: weights[i : i + 1, :, at : at + 1] for path, weights in maps.items()}
                    row, column = pixels_of[name]
                    title = captions[name][0][1] if captions.get(name) else f"pixel {row}, {column}"
                    attention_figure(photo, [title], own, [(row, column)], files[name], sizes=[sizes[name]])
            except OSError as error:
                raise AttentionError(f"{files[name]}: cannot be written ({error.strerror})") from error
