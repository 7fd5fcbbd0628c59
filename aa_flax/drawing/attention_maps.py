"""The attention weights of the layers of a network for some images."""

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.drawing.trace import module_paths, natural_order, watched
from aa_flax.layers import AttentionPooling
from aa_flax.ops.axes import sizes


def attention_maps(
    model: nnx.Module,
    images: Float[Array, "b *space c"],
    *,
    layers: Sequence[str] | str | None = None,
    queries: Sequence[tuple[int, ...]] | None = None,
) -> dict[str, Float[Array, "b n ..."]]:
    """Return the attention weights of each attending layer for a batch of normalised images.

    Args:
        model: any network of the library; it is evaluated with its running statistics.
        images: [b, h, w, c]; of networks of signals and volumes [b, *space, c], without padding.
        layers: dotted module paths, or shell patterns of them such as "stage3.*"; None for every layer that attends.
        queries: (row, column) pixels of the image, or coordinates in a signal or volume; each stands for the position
            of the attended map that contains it. None for all positions: n * (h*w)**2 numbers per image and layer at
            the attended size h × w. Attention pooling ignores `queries`, because its queries are its tokens.

    Returns:
        The weights of each layer by its dotted path, in the order of the network, in at least float32.
        Attention-augmented convolution: [b, n, query_h, query_w, key_h, key_w] at the attended size, or
        [b, n, q, key_h, key_w] for q `queries`; each map sums to one over its keys.
        Attention pooling, at "pooling", in a segmentation network that of its presence head: [b, 1, tokens, h, w], a
        map over h × w positions for each token. With several tokens, one for each class, each map sums to one; the map
        of a single token sums to one minus the weight that the token gives to itself.

    Raises:
        ValueError: a layer does not exist or does not attend, or a query is no pixel of the image.
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
    space = images.shape[1:-1]
    pixels = None if queries is None else np.asarray(queries).reshape(-1, len(space))
    if pixels is not None and pixels.size and pixels.dtype.kind not in "iu":
        raise ValueError(f"queries must be whole (row, column) pixels, got {pixels.tolist()}")
    if pixels is not None and ((pixels < 0).any() or (pixels >= space).any()):
        raise ValueError(f"queries must be (row, column) pixels of a {sizes(space)} image, got {pixels.tolist()}")
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, images: Any) -> dict[str, Any]:
        merged: Any = nnx.merge(graph, state, copy=True)
        merged.eval()
        found: dict[str, Any] = {}

        def look(path: str, module: Any, arguments: tuple) -> None:
            if path in wanted:
                places = None if pixels is None else _places(pixels, space, module, arguments[0])
                found[path] = module.attention_weights(arguments[0], places)

        with watched(merged, look):
            getattr(merged, "outputs", merged)(images)  # heads that only training runs attend too
        order.extend(found)
        return found

    order: list[str] = []
    maps = forward(state, images)
    return {path: maps[path] for path in order}


def attending_paths(model: nnx.Module) -> tuple[list[str], list[str]]:
    """Return the dotted paths of the attending modules, in the order of the network.

    Returns:
        (layers, poolings): layers in which positions attend to positions, and poolings in which tokens attend to them.
    """
    layers: list[str] = []
    poolings: list[str] = []
    for path, module in sorted(_by_path(model).items(), key=lambda item: natural_order(item[0])):
        if getattr(module, "attends", False):
            (poolings if isinstance(module, AttentionPooling) else layers).append(path)
    return layers, poolings


def last_of_each_stage(layers: Sequence[str]) -> list[str]:
    """Return the last path below each stage, or each top-level module without stages, in the order of the network.

    A network that has a backbone has the stages of that.
    """
    return list({_stage(path): path for path in layers}.values())


def layer_name(path: str) -> str:
    """Return the path of an attending layer as pictures have it: without its backbone, and without its convolution.

    Only one convolution of a block attends.
    """
    short = path.removeprefix("backbone.")
    return short.rpartition(".conv")[0] or short


def _stage(path: str) -> str:
    found = re.match(r"(.*\.)?stage\d+(?=\.|$)", path)
    return found.group() if found else path.split(".")[0]


def _by_path(model: nnx.Module) -> dict[str, Any]:
    paths = module_paths(model)
    return {paths[id(module)]: module for _, module in nnx.iter_modules(model)}


def _places(pixels: np.ndarray, image_size: tuple[int, ...], module: Any, x: Any) -> np.ndarray:
    """Return the (row, column) of the position on the attended map that contains each pixel."""
    attended = np.asarray(module.attended_shape(*x.shape[1:-1]))
    return (pixels * attended) // np.asarray(image_size)
