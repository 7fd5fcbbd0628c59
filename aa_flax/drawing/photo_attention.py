"""A picture of what a trained network attends to, for each of some photographs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing.attention_maps import attending_paths, attention_maps, last_of_each_stage
from aa_flax.drawing.plots import attention_figure
from aa_flax.drawing.pooling_figures import captioned_figure

_AT_ONCE = 16  # photos in a batch


class AttentionError(Exception):
    """Nothing that could be drawn, or no place for it; the message is one line."""


def layers_to_draw(model: nnx.Module, of_a_query: bool) -> list[str]:
    """Dotted paths of what is drawn: attention pooling where there is one, else the last attending layer of each stage.

    Args:
        model: a network of the library.
        of_a_query: the attending layers are meant, since a pixel was named; pooling has no use for one.

    Raises:
        AttentionError: the network has nothing of the kind.
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


def picture_files(folder: Path, photos: Iterable[str]) -> dict[str, Path]:
    """`folder`/NAME-attention.png for each photo, after its own name; of two of one name the second gets a number.

    The folder is made. A photo itself is never overwritten, a picture of an earlier call is.

    Raises:
        AttentionError: the folder cannot be made.
    """
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AttentionError(f"--attention={folder}: cannot be made a folder ({error.strerror})") from error
    files: dict[str, Path] = {}
    # Some file systems hold names that differ in case for the same.
    taken = {str(Path(photo).resolve()).casefold() for photo in photos}
    for photo in photos:
        number, file = 1, folder / f"{Path(photo).stem}-attention.png"
        while str(file.resolve()).casefold() in taken:
            number += 1
            file = folder / f"{Path(photo).stem}-{number}-attention.png"
        taken.add(str(file.resolve()).casefold())
        files[photo] = file
    return files


def draw_photos(
    model: nnx.Module,
    preprocessing: Preprocessing,
    photos: Mapping[str, UInt8[np.ndarray, "h w c"]],
    captions: Mapping[str, Sequence[tuple[int, str]]],
    layers: Sequence[str],
    query: tuple[int, int],
    files: Mapping[str, Path],
) -> None:
    """Write a picture of each photo, at `files`.

    Args:
        model: the network.
        preprocessing: what it expects of pixels.
        photos: name to pixels 0 to 255, all of one size.
        captions: by the same names, (token, words) of what is seen, the most certain first.
        layers: from `layers_to_draw`.
        query: (row, column) of the pixel whose attention is drawn; attention pooling needs none.
        files: name to PNG.

    Raises:
        AttentionError: a file cannot be written.
    """
    _, poolings = attending_paths(model)
    names = list(photos)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        pixels = np.stack([photos[name] for name in some])
        maps = attention_maps(model, preprocessing.normalize(jnp.asarray(pixels)), layers=layers, queries=[query])
        for i, name in enumerate(some):
            photo = pixels[i : i + 1]
            try:
                if layers[0] in poolings:
                    weights = maps[layers[0]][i : i + 1, 0]
                    captioned_figure(photo, weights, [captions[name]], file=files[name])
                else:
                    own = {path: weights[i : i + 1] for path, weights in maps.items()}
                    attention_figure(photo, [captions[name][0][1]], own, [query], files[name])
            except OSError as error:
                raise AttentionError(f"{files[name]}: cannot be written ({error.strerror})") from error
