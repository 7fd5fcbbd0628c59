"""The protocol of a task: all that differs between one kind of training and another.

Reading, step, loop, checkpoints and commands know a `Task` and nothing of its targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt32

from aa_flax.data.datasets import Dataset
from aa_flax.data.source import Source
from aa_flax.data.targets import Targets
from aa_flax.tasks.results import Result

RandomKey = Key[Array, ""] | UInt32[Array, "2"]


@dataclass(frozen=True)
class Scores:
    """The scores of a network on a data set.

    Attributes:
        values: numbers by name, for logs and tables; "loss" is one of them.
        details: what else a result keeps, as JSON values.
        examples: how many were scored.
        drawn: what the task's own pictures are drawn from; it is kept nowhere.
    """

    values: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 0
    drawn: Any = None


@runtime_checkable  # the shape checker of the tests asks
class Task(Protocol):
    """A kind of training, for one config and one data set.

    Attributes:
        targets: what is read of an example beside its image.
        metrics: what `losses` returns besides the loss: names, and the dtype of each sum over a log window.
        headline: the score, one of `Scores.values`, that checkpoints are compared by; larger is better.
        fractions: names of scores and details that lie between 0 and 1, which tables show in percent.
        display: a frozen dataclass of what `describe` may be asked for; its fields, of `aa_flax.config.fields.field`,
            are flags of `aa_flax.predict`.

    A task may name, as `beside`, scores that tables of runs show beside the headline; as `scoring_options`, options
    that may be changed for a trained network, see `aa_flax.tasks.scoring_options`; and, as `options_type`, the frozen
    dataclass that `config.task.options` is checked against: words of the command line become values of its fields'
    types. It may also have methods that the functions below call if they are there: `begin`; `check_source`; `rows` and
    `scorer`, for scores that are no sums; `draw(prediction, pixels, display, file)`, which draws a prediction with the
    photograph, as a PNG into a file or `io.BytesIO`; `result(prediction, display, photo)`, which returns it as an
    `aa_flax.tasks.results.Result`, where `photo()` gives the pixels; and for predictions that lie in the photograph
    `found`, `mark(axes, example)`, which draws the targets of an example over its picture, `key(examples)`, which
    returns name and colour of each class that `mark` draws in these, `attention_drawer(model)`, which returns the
    function (pixels, row, placement, display, file) that draws what the network attends to where it found something,
    with `has_masks`, `mask_picture(prediction, display)`, which returns a picture (Pillow's) of the photograph's size
    whose pixels are numbers of what is there, and `values(prediction, display)`, which returns a prediction as JSON has
    it. `recorded_display(result)` returns values of display fields that the result of a finished run says, which are
    then the defaults.

    A network can be exported whose task names, as `serves`, the forms in which a program may give what it finds, the
    usual one first, and has `serve(model, images, sizes, form)`, which returns one of them as arrays [b, ...] by name;
    on the device, pure. `images` are normalised, and `sizes` [b, 2] the height and width of each on its canvas.
    `needs_loops` names those of the forms whose programs have loops, which ONNX models have not. `served_size` is the
    height and width of the program's images, where that is not the run's.
    """

    targets: Targets
    metrics: Mapping[str, Any]
    headline: str
    fractions: frozenset[str]
    display: type

    def check(self, devices: int) -> None:
        """Raise ConfigError if batches cannot be split over so many devices."""

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise ConfigError if a trained network cannot be scored on a data set, whose targets are others."""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return the untrained network; raise TypeError or ValueError if its options do not fit."""

    def prepare(self, batch: Mapping[str, Array], key: RandomKey) -> tuple[Array, Any, Array]:
        """Return the network's inputs and targets of a training batch; on the device, pure.

        Args:
            batch: arrays [b, ...], "image" as uint8 [b, h, w, c] among them, of all devices together.
            key: the key of the step; augmentation draws from it.

        Returns:
            Images; targets, a tree of arrays [b, ...]; and the number, a scalar, that the sum of the losses is divided
            by. It counts the whole batch, before that is split into micro-batches.
        """

    def losses(
        self, model: Any, images: Array, targets: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Any]]]:
        """Return each image's loss, and each of the `metrics` as a sum and the count that divides it."""

    def predict(self, model: Any, images: Array, placement: Float[Array, "b 8"] | None) -> Any:
        """Return the network's predictions for normalised images, as a tree of arrays [b, ...].

        Args:
            model: the network.
            images: [b, h, w, c].
            placement: how each image lies on its canvas, see `aa_flax.data.placement`; None for images that fill it,
                and for targets that are not placed.
        """

    def score(self, predictions: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return sums over the images of a held-out batch whose "mask" is True; on the device, pure."""

    def scores(self, sums: Mapping[str, Any]) -> Scores:
        """Return the scores that follow from the sums over all batches."""

    def lines(self, scores: Scores) -> list[str]:
        """Return the lines that `aa_flax.evaluate` prints besides the values."""

    def report(self, model: nnx.Module, scores: Scores, source: Source, folder: Path) -> None:
        """Draw pictures of a trained network into a folder; `source` has the held-out data."""

    def title(self, example: Mapping[str, Any]) -> str:
        """Return the title of the picture of an example: its targets in a word or two."""

    def describe(self, prediction: Any, display: Any) -> list[str]:
        """Return the lines that `aa_flax.predict` prints about one photograph.

        Args:
            prediction: what `found` gives for it.
            display: an object of the type `self.display`.
        """

    def captions(self, prediction: Any) -> list[tuple[int, str]]:
        """Return (number, words) of each thing predicted in a photograph, the most certain first; at least one.

        The words are the title of a picture of what the network attends to. In a network that pools by one token for
        each class, the number is that of the token.
        """


@runtime_checkable  # the shape checker of the tests asks
class Scorer(Protocol):
    """What gathers the predictions for held-out images in each process, for scores that are no sums."""

    def add(self, index: np.ndarray, mask: np.ndarray, rows: Any, placement: np.ndarray | None) -> None:
        """Take this process's share of a batch.

        Args:
            index: int [b], the example of each row in the source.
            mask: bool [b], False for rows that only fill up the batch.
            rows: what `rows_of` gives for them, as NumPy arrays [b, ...].
            placement: float [b, 8], see `aa_flax.data.placement`; None for targets that are not placed.
        """

    def state(self) -> Mapping[str, np.ndarray]:
        """Return what other processes need of this one's, small where it can be."""

    def scores(self, sums: Mapping[str, Any], states: Sequence[Mapping[str, np.ndarray]]) -> Scores:
        """Return the scores that follow from the sums of `Task.score` and the states of all processes."""


def rows_of(task: Task, predictions: Any, images: Array, placement: Array | None) -> Any:
    """Return what is kept of the predictions for each image, [b, ...]; on the device, pure.

    It is what `task.rows(predictions, images, placement)` returns, where only the shape of the images counts, or the
    predictions themselves for a task without `rows`.
    """
    rows = getattr(task, "rows", None)
    return predictions if rows is None else rows(predictions, images, placement)


def places(task: Task) -> bool:
    """Return whether the targets of a task lie in the image, so that batches say how each image lies on its canvas."""
    return hasattr(task.targets, "placed")


def scorer_of(task: Task, source: Source) -> Scorer | None:
    """Return the scorer of a task for held-out data, `task.scorer(source)`; None if sums say everything."""
    make = getattr(task, "scorer", None)
    return None if make is None else make(source)


def found(task: Task, row: Any, placement: np.ndarray) -> Any:
    """Return the prediction for one photograph, in its own pixels, as `describe` and `captions` take it.

    Args:
        task: the task.
        row: what `rows_of` gives for one image, in this process's memory.
        placement: float [8], how the photograph lay on the canvas.
    """
    make = getattr(task, "found", None)
    return row if make is None else make(row, placement)


def check_source(task: Task, source: Source) -> None:
    """Let a task refuse a split before anything is trained or scored, if it has a method `check_source(source)`.

    Raises:
        DataError: the split is not what the task needs.
    """
    asks = getattr(task, "check_source", None)
    if asks is not None:
        asks(source)


def result_of(task: Task, prediction: Any, display: Any, photo: Callable[[], np.ndarray]) -> Any:
    """Return what a task says about one photograph as Python has it.

    Args:
        task: the task.
        prediction: what `found` gave for the photograph.
        display: an object of the type `task.display`.
        photo: returns the photograph's pixels.
    """
    make = getattr(task, "result", None)
    return Result(task, prediction, display, photo) if make is None else make(prediction, display, photo)


def recorded_display(task: Any, result: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return values by field of the display options that the result of a run says, {} if the task takes none of it.

    Args:
        task: of the run.
        result: returns the result, None if the run is not finished; it is called only if the task takes something.
    """
    recorded = getattr(task, "recorded_display", None)
    return {} if recorded is None else dict(recorded(result() or {}))


def begin(task: Task, source: Source | None) -> None:
    """Give a task the training split before it prepares a batch, if it has a method `begin(source)` that asks for it.

    None stands for data that is not there, where nothing but shapes or pictures comes of the batches.
    """
    asks = getattr(task, "begin", None)
    if asks is not None:
        asks(source)
