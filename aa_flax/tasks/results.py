"""What a network says about one photograph, as Python and notebooks have it: arrays, names and a picture."""

import base64
import html
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from aa_flax.literal import literal, literal_lines
from aa_flax.tasks.found_objects import FoundObjects
from aa_flax.tasks.segmented import Segmented


class Result:
    """What a network says about one photograph, in the photograph's own pixels.

    Printed, it has the lines of `aa_flax.predict`; a notebook shows them beside the picture.

    Attributes:
        prediction: as the task has it.
        display: the options of what is shown of it.
    """

    def __init__(
        self, task: Any, prediction: Any, display: Any, photo: Callable[[], UInt8[np.ndarray, "h w c"]]
    ) -> None:
        """Take what `task` has found, and the function that returns the photograph's pixels."""
        self._task, self._photo = task, photo
        self.prediction, self.display = prediction, display

    @property
    def photo(self) -> UInt8[np.ndarray, "h w c"]:
        """The photograph's pixels, 0 to 255; those of a file are read again each time, so that none are kept."""
        return self._photo()

    @property
    def lines(self) -> list[str]:
        """The lines that `aa_flax.predict` prints of it."""
        return self._task.describe(self.prediction, self.display)

    @property
    def values(self) -> Any:
        """What `aa_flax.predict --json` writes of it.

        Raises:
            TypeError: the task gives nothing as JSON.
        """
        return self._of_task("values")(self.prediction, self.display)

    def draw(self, file: str | Path | None = None) -> Image.Image:
        """Return a picture of it over the photograph, and write it if a file is named, in the format of its suffix.

        Raises:
            TypeError: the task draws nothing.
            ValueError: Pillow knows no format with that suffix.
            OSError: the file cannot be written.
        """
        picture = Image.open(io.BytesIO(self._png())).convert("RGB")
        if file is not None:
            picture.save(Path(file).expanduser())
        return picture

    def __str__(self) -> str:
        return literal_lines("\n".join(self.lines))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'; '.join(literal(line.strip()) for line in self.lines)}>"

    def _repr_png_(self) -> bytes | None:
        return self._png() if hasattr(self._task, "draw") else None

    def _repr_html_(self) -> str:
        words, picture = html.escape(str(self)), ""
        if content := self._repr_png_():
            data = base64.b64encode(content).decode("ascii")
            picture = f'<img src="data:image/png;base64,{data}" alt="" style="max-width: 100%">'
        return f'<div>{picture}<pre style="white-space: pre-wrap">{words}</pre></div>'

    def _png(self) -> bytes:
        buffer = io.BytesIO()
        self._of_task("draw")(self.prediction, self.photo, self.display, buffer)
        return buffer.getvalue()

    def _of_task(self, method: str) -> Callable[..., Any]:
        found = getattr(self._task, method, None)
        if found is None:
            raise TypeError(f"the task {type(self._task).__name__} has no method {method}")
        return found


class Classification(Result):
    """How probable each class is for a photograph."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return self._task.preprocessing.class_names

    @property
    def probabilities(self) -> Float[np.ndarray, " classes"]:
        """The probability of each class."""
        return self._task.probabilities(self.prediction)

    @property
    def label(self) -> int:
        """The number of the most probable class."""
        return int(np.argmax(self.probabilities))

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.names[self.label]

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return float(self.probabilities.max())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return name and probability of the `count` most probable classes, the most probable first.

        Raises:
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(self.names[k], float(probabilities[k])) for k in order]


class Detection(NamedTuple):
    """One object that was found.

    Attributes:
        name, label: of its class.
        score: between 0 and 1.
        box: x1, y1, x2, y2 in the photograph's pixels.
        mask: which pixels of the photograph are its own; None of a network that finds boxes alone.
    """

    name: str
    label: int
    score: float
    box: Float[np.ndarray, "4"]
    mask: Bool[np.ndarray, "h w"] | None


class Detections(Result):
    """The objects found in a photograph with the score that is asked for, or more, in falling score."""

    prediction: FoundObjects

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """The boxes: x1, y1, x2, y2 in the photograph's pixels, within it."""
        return self._shown.boxes

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        """The scores, between 0 and 1."""
        return self._shown.scores

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The number of each one's class."""
        return self._shown.labels

    @property
    def names(self) -> list[str]:
        """The name of each one's class."""
        return [self._task.preprocessing.class_names[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Bool[np.ndarray, "n h w"] | None:
        """Which pixels of the photograph are each one's own; None of a network that finds boxes alone."""
        masks = self._shown.masks
        if masks is None:
            return None
        return (
            np.stack([mask.pixels().astype(bool) for mask in masks])
            if masks
            else np.zeros((0, *self._shown.size), bool)
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        masks = self.masks
        rows = zip(self.names, self.labels.tolist(), self.scores.tolist(), self.boxes, strict=True)
        return iter([Detection(*row, None if masks is None else masks[k]) for k, row in enumerate(rows)])

    def __getitem__(self, place: int) -> Detection:
        """Return an object by its place in the order of scores, as a list does; IndexError beyond the last."""
        return [*self][place]

    @property
    def _shown(self) -> FoundObjects:
        return self.prediction.at_least(self.display.threshold)


class Segmentation(Result):
    """The class of each pixel of a photograph."""

    prediction: Segmented

    @property
    def labels(self) -> UInt8[np.ndarray, "h w"]:
        """The number of each pixel's class."""
        return self.prediction.labels

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return self._task.preprocessing.class_names

    @property
    def parts(self) -> dict[str, float]:
        """The part of all pixels that each class has, of those that occur, the largest first."""
        return {self.names[k]: part for k, _, part in self.prediction.parts(len(self.names))}

    @property
    def masks(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Which pixels are each class's, of those that occur, the largest first."""
        return {self.names[k]: self.labels == k for k, _, _ in self.prediction.parts(len(self.names))}
