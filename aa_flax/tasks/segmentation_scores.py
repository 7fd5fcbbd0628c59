"""Scores of a segmentation: each process counts the pixels of its photographs, and the counts are added."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from aa_flax.data.source import Source
from aa_flax.evaluation.segmentation import confusion, scores
from aa_flax.tasks.task import Scores

LabelsOf = Callable[[Any, np.ndarray], UInt8[np.ndarray, "_h _w"]]
"""A function from the row of one image and its placement to the class of each pixel of the photograph."""


@dataclass(frozen=True)
class PhotoCounts:
    """Of each photograph, in rising order of `index`: pixels that have a class, and those that were given it."""

    index: Int64[np.ndarray, " n"]
    pixels: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]


class SegmentationScorer:
    """Segments the photographs of a split at their own size, and counts their pixels by true and given class."""

    def __init__(self, source: Source, class_names: Sequence[str], labels_of: LabelsOf) -> None:
        """Make a scorer.

        Args:
            source: the held-out data.
            class_names: of every class.
            labels_of: called by several threads.
        """
        self._source, self._names, self._labels_of = source, tuple(class_names), labels_of
        self._confusion = np.zeros((len(self._names),) * 2, np.int64)
        self._photos: list[tuple[int, int, int]] = []

    def add(self, index: np.ndarray, mask: np.ndarray, rows: Any, placement: np.ndarray | None) -> None:
        """Take this process's share of a batch."""
        assert placement is not None  # label maps are targets that are placed

        def count(place: int) -> np.ndarray:
            labels = self._source.targets(int(index[place]))["labels"]
            given = self._labels_of({name: each[place] for name, each in rows.items()}, placement[place])
            return confusion(given, labels, len(self._names))

        chosen = np.flatnonzero(mask).tolist()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for place, counts in zip(chosen, pool.map(count, chosen), strict=True):
                self._confusion += counts
                self._photos.append((int(index[place]), int(counts.sum()), int(np.trace(counts))))

    def state(self) -> dict[str, np.ndarray]:
        """Return the counts of this process's photographs."""
        return {"confusion": self._confusion, "photos": np.array(self._photos, np.int64).reshape(-1, 3)}

    def scores(self, sums: Mapping[str, Any], states: Sequence[Mapping[str, np.ndarray]]) -> Scores:
        """Return mIoU, accuracies and the loss of all photographs; details by class, and the table of counts."""
        counts = sum((state["confusion"] for state in states), np.zeros_like(self._confusion))
        photos = np.concatenate([state["photos"] for state in states])
        index, pixels, right = photos[np.argsort(photos[:, 0], kind="stable")].T
        found = scores(counts)
        return Scores(
            values={
                "loss": float(sums["loss"]) / float(sums["pixels"]) if sums["pixels"] else math.nan,
                "mIoU": found.mean_iou,
                "mean_accuracy": found.mean_accuracy,
                "pixel_accuracy": found.pixel_accuracy,
            },
            details={
                "IoU_per_class": dict(zip(self._names, found.iou, strict=True)),
                "accuracy_per_class": dict(zip(self._names, found.accuracy, strict=True)),
                "confusion": counts.tolist(),
            },
            examples=len(photos),
            drawn=PhotoCounts(index, pixels, right),
        )
