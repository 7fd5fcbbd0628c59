"""What the attention of a network looks at."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.drawing.trace import module_paths, natural_order, watched
from aa_flax.layers import AttentionPooling


def attention_maps(
    model: nnx.Module,
    images: Float[Array, "b h w c"],
    *,
    layers: Sequence[str] | str | None = None,
    queries: Sequence[tuple[int, int]] | None = None,
) -> dict[str, Float[Array, "b n ..."]]:
    """The attention weights of each attending layer for a batch of normalised images.

    Args:
        model: any network of the library; evaluated with its running statistics.
        images: [b, h, w, c].
        layers: dotted module paths, or shell patterns of them such as "stage3.*"; None for every layer that attends.
        queries: (row, column) pixels of the image; each is mapped to the place of the attended map that holds it.
            None for every query: n * (h*w)**2 numbers an image and layer at the attended size h × w. Attention pooling
            does not heed them: its queries are its tokens.

    Returns:
        Dotted path to weights, in the order of the network, in at least float32.
        Attention-augmented convolution: [b, n, query_h, query_w, key_h, key_w] at the attended size, or
        [b, n, q, key_h, key_w] for q `queries`; each map sums to one over its keys.
        Attention pooling, at "pooling": [b, 1, tokens, h, w], a map of h × w places for each token. With several
        tokens, one for each class, each map sums to one; that of a single token to one less what it gives itself.

    Raises:
        ValueError: a layer that does not exist or does not attend, or a query outside the image.
    """
    attending = [path for path, module in _by_path(model).items() if getattr(module, "attends", False)]
    patterns = [layers] if isinstance(layers, str) else layers
    wanted = set(attending)
    if patterns is not None:
        for pattern in patterns:
            if not fnmatch.filter(attending, pattern):
                known = ", ".join(attending) or "none"
                raise ValueError(f"layers: no attending layer matches {pattern!r}; attending layers: {known}")
        wanted = {path for pattern in patterns for path in fnmatch.filter(attending, pattern)}
    height, width = images.shape[1:3]
    pixels = None if queries is None else np.asarray(queries).reshape(-1, 2)
    if pixels is not None and pixels.size and pixels.dtype.kind not in "iu":
        raise ValueError(f"queries must be whole (row, column) pixels, got {pixels.tolist()}")
    if pixels is not None and ((pixels < 0).any() or (pixels >= (height, width)).any()):
        raise ValueError(f"queries must be (row, column) pixels of a {height}x{width} image, got {pixels.tolist()}")
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, images: Any) -> dict[str, Any]:
        merged: Any = nnx.merge(graph, state, copy=True)
        merged.eval()
        found: dict[str, Any] = {}

        def look(path: str, module: Any, arguments: tuple) -> None:
            if path in wanted:
                places = None if pixels is None else _places(pixels, (height, width), module, arguments[0])
                found[path] = module.attention_weights(arguments[0], places)

        with watched(merged, look):
            merged(images)
        order.extend(found)
        return found

    order: list[str] = []
    maps = forward(state, images)
    return {path: maps[path] for path in order}


def attending_paths(model: nnx.Module) -> tuple[list[str], list[str]]:
    """Dotted paths of what attends: (layers in which places look at places, poolings in which tokens do), in order."""
    layers: list[str] = []
    poolings: list[str] = []
    for path, module in sorted(_by_path(model).items(), key=lambda item: natural_order(item[0])):
        if getattr(module, "attends", False):
            (poolings if isinstance(module, AttentionPooling) else layers).append(path)
    return layers, poolings


def last_of_each_stage(layers: Sequence[str]) -> list[str]:
    """Of dotted paths in the order of the network the last below each top-level module."""
    return list({path.split(".")[0]: path for path in layers}.values())


def _by_path(model: nnx.Module) -> dict[str, Any]:
    paths = module_paths(model)
    return {paths[id(module)]: module for _, module in nnx.iter_modules(model)}


def _places(pixels: np.ndarray, image_size: tuple[int, int], module: Any, x: Any) -> np.ndarray:
    """(row, column) on the attended map of the cell that holds each pixel."""
    attended = np.asarray(module.attended_shape(*x.shape[1:3]))
    return (pixels * attended) // np.asarray(image_size)
