"""What a trained segmentation network leaves for people: pictures of what is right and what is wrong."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from aa_flax.data.placement import Placement
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.record_source import RecordSource
from aa_flax.data.source import Source
from aa_flax.drawing.object_attention import ObjectAttention
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.plots import confusion_matrix
from aa_flax.drawing.segment_attention import draw_segments
from aa_flax.drawing.segment_pooling import SegmentPooling, draw_segment_pooling
from aa_flax.drawing.segmentation_gallery import Example, truths_beside_segments
from aa_flax.drawing.segmentation_plots import iou_by_class
from aa_flax.tasks.segmentation_scores import PhotoCounts
from aa_flax.tasks.task import Scores

Segment = Callable[[np.ndarray, np.ndarray], UInt8[np.ndarray, "_h _w"]]
"""A function from the pixels of a canvas [h, w, c] and the placement to the class of each pixel of the photograph."""
_SHOWN = 6
"""How many photographs a gallery has."""


def draw_report(
    model: nnx.Module,
    segment: Segment,
    scores: Scores,
    source: Source,
    preprocessing: Preprocessing,
    colors: UInt8[np.ndarray, "256 3"],
    folder: Path,
) -> None:
    """Draw IoU by class, the confusion of classes, two galleries, and what the network attends to, as PNG files.

    One gallery has photographs spread over the split, the other those with the largest part of wrong pixels.

    Args:
        model: the network.
        segment: says what it gives for a photograph.
        scores: of the split.
        source: the split.
        preprocessing: how its photographs are seen.
        colors: of each label.
        folder: where the pictures go.
    """
    names = list(preprocessing.class_names)
    table = np.asarray(scores.details["confusion"])
    confusion_matrix(table, names, folder / "confusion_matrix.png")
    parts = dict(zip(names, (table.sum(1) / max(table.sum(), 1)).tolist(), strict=True))
    by_class = scores.details["IoU_per_class"], scores.details["accuracy_per_class"]
    iou_by_class(*by_class, parts, colors, folder / "iou_by_class.png")
    photos: PhotoCounts = scores.drawn
    spread = np.unique(np.linspace(0, len(photos.index) - 1, _SHOWN).round().astype(int))
    wrong = np.argsort(photos.right / np.maximum(photos.pixels, 1), kind="stable")[:_SHOWN]
    wrong = wrong[photos.pixels[wrong] > 0]
    for chosen, name in ((spread, "segments.png"), (wrong, "worst.png")):
        examples = [_example(segment, source, preprocessing, photos, int(place)) for place in chosen]
        if examples:
            truths_beside_segments(examples, names, colors, folder / name)
    pixels, placement = seen(source, preprocessing, int(photos.index[spread[len(spread) // 2]]))
    for attention, end in zip(attentions(model), ("", "_pooling"), strict=False):
        file = folder / f"attention_maps{end}.png"
        draw_attention(attention, segment, preprocessing, colors, pixels, placement, file)


def attentions(model: nnx.Module) -> list[ObjectAttention | SegmentPooling]:
    """Return what there is to draw of what a network attends to: in its backbone, then by its attention pooling."""
    kinds: tuple[Callable[[nnx.Module], ObjectAttention | SegmentPooling], ...] = (ObjectAttention, SegmentPooling)
    found: list[ObjectAttention | SegmentPooling] = []
    for kind in kinds:
        with contextlib.suppress(AttentionError):
            found.append(kind(model))
    return found


def draw_attention(
    attention: ObjectAttention | SegmentPooling,
    segment: Segment,
    preprocessing: Preprocessing,
    colors: UInt8[np.ndarray, "256 3"],
    pixels: UInt8[np.ndarray, "h w c"],
    placement: np.ndarray,
    file: Path,
) -> None:
    """Draw what the largest segments of a photograph attend to, over the part of its canvas that it fills.

    Of attention pooling, where it looks for their classes.
    """
    height, width = (int(side) for side in placement[4:6])
    whole = Placement((0, 0, width, height), (height, width), (height, width), (height, width))
    labels = segment(pixels, whole.as_array())
    image = preprocessing.normalize(jnp.asarray(pixels)[None], jnp.asarray(placement)[None])[0]
    shown = (image, pixels, labels, preprocessing.class_names, colors)
    if isinstance(attention, SegmentPooling):
        draw_segment_pooling(attention, *shown, file=file)
    else:
        draw_segments(attention, *shown, file=file)


def seen(source: Source, preprocessing: Preprocessing, index: int) -> tuple[UInt8[np.ndarray, "h w c"], np.ndarray]:
    """Return the canvas with a photograph as the network sees it, and the placement."""
    view = preprocessing.view()
    example = source.part(index, view.framing, view.interpolation)
    return example["image"], example["placement"]


def make_segment(
    model: nnx.Module,
    predict: Callable[[Any, jax.Array, jax.Array], Any],
    labels_of: Callable[[Any, np.ndarray], np.ndarray],
    preprocessing: Preprocessing,
) -> Segment:
    """Return the function that segments a photograph with a network, compiled at its first call.

    Args:
        model: the network.
        predict: returns what it predicts for normalised images, which `labels_of` takes for each.
        labels_of: see `SegmentationScorer`.
        preprocessing: how images are normalised.
    """
    graph, state = nnx.split(model)

    @jax.jit
    def rows(state: Any, pixels: jax.Array, placement: jax.Array) -> Any:
        merged = nnx.merge(graph, state, copy=True)
        found = predict(merged, preprocessing.normalize(pixels[None], placement[None]), placement[None])
        return jax.tree.map(lambda each: each[0], found)

    def segment(pixels: np.ndarray, placement: np.ndarray) -> np.ndarray:
        return labels_of(jax.device_get(rows(state, pixels, placement)), placement)

    return segment


def _example(
    segment: Segment, source: Source, preprocessing: Preprocessing, photos: PhotoCounts, place: int
) -> Example:
    index = int(photos.index[place])
    part = 100 * photos.right[place] / max(photos.pixels[place], 1)
    stored = source[index]
    given = segment(*seen(source, preprocessing, index))
    return Example(stored["image"], stored["labels"], given, f"{part:.1f} % right, {name_of(source, index)}")


def name_of(source: Source, index: int) -> str:
    """Return the name of a photograph's file, or where the source has none, its number."""
    record = source.record(index) if isinstance(source, RecordSource) else {}
    name = bytes(record.get("image/filename", b"")).decode("utf-8", "surrogateescape")
    return name or f"example {index}"
