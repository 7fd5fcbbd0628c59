"""The base of data sets of signals: stored as numbers, with the statistics by which they are normalised."""

import abc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from aa_flax.data.errors import DataError
from aa_flax.data.sets.builder import Example, Origin

Labelled = tuple[Float[np.ndarray, "*space c"], int]
"""A signal and the number of its class."""


class SignalOrigin(Origin):
    """Files of signals with one class each; `read` gives those of a split.

    Mean and standard deviation of each channel are those of the training split, and the largest size along each axis
    that of all splits; all three are stored beside the data.

    Attributes:
        signal_shape: (*space, c), None for the first side where signals differ in length.
    """

    homepage = ""
    encoding = None
    supervised_keys = ("signal", "label")
    signal_shape: tuple[Any, ...]
    _split_files: Mapping[str, Path]

    @abc.abstractmethod
    def read(self, file: Path) -> Iterable[Labelled]:
        """Yield the signals of a split's file with the numbers of their classes, in the order of the file."""

    @property
    def files(self) -> list[Path]:
        return list(self._split_files.values())

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        signal = tfds.features.Tensor(shape=self.signal_shape, dtype=np.float32)
        return {"signal": signal, "label": self.class_feature()}

    def metadata(self) -> Mapping[str, Any]:
        self._found: dict[str, list[Any]] = {"mean": [], "std": [], "largest": []}
        return self._found

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {split: self._examples(split, file) for split, file in self._split_files.items()}

    def _examples(self, split: str, file: Path) -> Iterator[Example]:
        channels, largest = self.signal_shape[-1], self._found["largest"]
        count, sums, squares = 0, np.zeros(channels), np.zeros(channels)
        for index, (signal, label) in enumerate(self.read(file)):
            self._check(signal, file, index)
            sides = signal.shape[:-1]
            largest[:] = [max(pair) for pair in zip(largest, sides, strict=True)] if largest else list(sides)
            places = signal.reshape(-1, channels).astype(np.float64)
            count, sums, squares = count + len(places), sums + places.sum(0), squares + np.square(places).sum(0)
            yield {"signal": signal.astype(np.float32), "label": self.checked_label(label, file, index)}
        if split == "train":
            if not count:
                raise DataError(f"{file}: no signals")
            mean = sums / count
            variance = np.maximum(squares / count - np.square(mean), 0)
            self._found["mean"][:] = mean.tolist()
            # A channel that never changes stays 0 when its mean is taken off.
            self._found["std"][:] = np.where(variance > 0, np.sqrt(variance), 1).tolist()

    def _check(self, signal: np.ndarray, file: Path, index: int) -> None:
        shape = self.signal_shape
        fits = signal.ndim == len(shape) and all(
            side in (None, found) for side, found in zip(shape, signal.shape, strict=True)
        )
        if not fits or 0 in signal.shape:
            raise DataError(f"{file}: example {index} has shape {signal.shape}, expected {shape}")
        if not np.isfinite(signal).all():
            raise DataError(f"{file}: example {index} has numbers that are missing or not finite")
