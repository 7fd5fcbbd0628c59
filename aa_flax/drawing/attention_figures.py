"""Pictures of what a network attends to in some images, for the report of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from aa_flax.drawing.attention_maps import attending_paths, attention_maps, last_of_each_stage
from aa_flax.drawing.pooling_figures import pooling_figure
from aa_flax.drawing.query_attention import attention_figure


def draw_attention(
    model: nnx.Module,
    normalized: jax.Array,
    pixels: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    file: Path,
    class_names: Sequence[str] = (),
) -> bool:
    """Draw the last attending layer of each stage, for two query pixels per image, and attention pooling.

    The picture of the pooling is written to `file` if no other layer attends, else beside it, to a name that ends in
    _pooling.

    Args:
        model: the network.
        normalized: [b, h, w, c], the images as the network takes them.
        pixels: the same images as pixels, 0 to 255.
        titles: words for each image.
        file: the picture to write.
        class_names: the name of each class, for the picture of the pooling; their numbers if not given.

    Returns:
        False if nothing in the network attends, so that nothing was drawn.
    """
    attending, poolings = attending_paths(model)
    if attending:
        height, width = pixels.shape[1:3]
        queries = [(height // 4, width // 2), (height // 2, width // 2)]
        maps = attention_maps(model, normalized, layers=last_of_each_stage(attending), queries=queries)
        attention_figure(pixels, titles, maps, queries, file)
        file = file.with_stem(f"{file.stem}_pooling")
    if poolings:
        draw_pooling(model, normalized, pixels, titles, class_names, file)
    return bool(attending or poolings)


def draw_pooling(
    model: nnx.Module,
    normalized: jax.Array,
    pixels: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    class_names: Sequence[str],
    file: Path,
) -> None:
    """Draw what the tokens of a network with attention pooling attend to in some images.

    The arguments are those of `draw_attention`.
    """
    _, (path, *_) = attending_paths(model)
    graph, state = nnx.split(model)

    @jax.jit
    def probabilities(state: Any, images: Any) -> jax.Array:
        merged: Any = nnx.merge(graph, state, copy=True)
        merged.eval()
        return jax.nn.softmax(merged(images).astype(jax.numpy.float32))

    scores = probabilities(state, normalized)
    names = class_names or [f"class {k}" for k in range(scores.shape[-1])]
    weights = attention_maps(model, normalized, layers=path)[path][:, 0]
    pooling_figure(pixels, weights, scores, names, titles=titles, file=file)
