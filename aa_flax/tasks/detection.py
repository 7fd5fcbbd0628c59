"""Training a network to find the objects of each image: a box, a class and a score for each."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from aa_flax.config import fields
from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.augment.device import flipped_boxes, flipped_masks
from aa_flax.data.boxes import Boxes
from aa_flax.data.datasets import Dataset
from aa_flax.data.masks import MissingLibrary, require_library
from aa_flax.data.placement import resized
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.source import Source
from aa_flax.drawing.boxes import class_color, draw_boxes, outline
from aa_flax.drawing.masks import instance_map, square
from aa_flax.drawing.object_attention import ObjectAttention, draw_objects
from aa_flax.literal import quoted, told_apart
from aa_flax.models.registry import options_around
from aa_flax.ops.mesh import table_rows
from aa_flax.tasks.augmentation import make_placed_augment, require_targets_in_place
from aa_flax.tasks.class_columns import Numbering, class_columns, labels_of
from aa_flax.tasks.detection_report import draw_report, write_detections
from aa_flax.tasks.detection_scores import DetectionScorer, lines_by_class
from aa_flax.tasks.detector_kinds import kind_of
from aa_flax.tasks.found_objects import FoundObjects, in_photo, on_canvas
from aa_flax.tasks.network import build_network, require_same_classes
from aa_flax.tasks.options import options_of
from aa_flax.tasks.results import Detections
from aa_flax.tasks.served_objects import candidates_of, objects_of
from aa_flax.tasks.task import RandomKey, Scores

_SCORES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AP_per_class", "AP50_per_class")
_RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
_NUMBERS = (*_SCORES, *_RECALLS)


@dataclass(frozen=True)
class DetectionOptions:
    """Options of detection: the fields of `config.task.options`."""

    most_objects: int = fields.field(100, "the largest number of objects of an image; more are an error", at_least=1)
    least_side: float = fields.field(
        1.0, "pixels of height and width below which what a crop leaves of an object is dropped", at_least=0
    )
    columns: Numbering = fields.field(
        "classes",
        "which column of the network's class scores stands for a class: they are numbered in order, or by the numbers "
        "that the data set's files give them, as published networks for COCO have them, with columns that stand for "
        "nothing",
    )


@dataclass(frozen=True)
class DetectionDisplay:
    """What is printed about a photograph."""

    threshold: float = fields.field(
        0.3,
        "least score of an object that is printed and drawn; if not given, that of the best F1 on the held-out data of "
        "the run, once it is finished",
        at_least=0,
        below=1,
    )


class Detection:
    """The task of finding objects, scored by COCO's average precision on held-out data."""

    fractions = frozenset({*_NUMBERS, *(f"mask_{name}" for name in _NUMBERS), "F1"})
    headline = "AP"
    display = DetectionDisplay
    options_type = DetectionOptions
    serves = ("detections", "candidates")

    def __init__(self, config: Config, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self.options = options_of(config, DetectionOptions)
        require_targets_in_place(config, "boxes")
        self._augment = make_placed_augment(config, preprocessing)
        try:
            self._network = options_around(config.model.name, **config.model.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config field 'model': {error}") from None
        self._kind = kind_of(self._network, config)
        self.metrics: Mapping[str, Any] = self._kind.metrics
        self.targets = Boxes(self.options.most_objects, self.options.least_side, self._kind.masks)
        self.headline = "mask_AP" if self._kind.masks else "AP"
        self._columns = class_columns(self.options.columns, preprocessing, self._network.unused_columns)

    @functools.cached_property
    def shown_names(self) -> list[str]:
        """The name of each class as it is printed and drawn, different from all others."""
        return told_apart(self.preprocessing.class_names)

    @property
    def num_columns(self) -> int:
        """The number of columns of the network's class scores."""
        return max(self._columns) + 1

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The class of each column of the network's class scores, -1 for a column that stands for none."""
        return labels_of(self._columns)

    def check(self, devices: int) -> None:
        """Raise ConfigError unless the scores can be computed and the batch divides into the parts of the loss."""
        try:
            require_library()
        except MissingLibrary as error:
            raise ConfigError(f"config field 'task.name' is 'detection': {error}") from None
        self._kind.check()

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise ConfigError unless the classes are those that the network was trained on."""
        trained, found = self.preprocessing.class_names, dataset.class_names
        if not dataset.has_objects:
            raise ConfigError(f"{dataset.name} has images of one class each; the run was trained to find objects")
        if found != trained and sorted(found) == sorted(trained):
            raise ConfigError(
                f"{dataset.name} has the classes of the run in another order, {quoted(found, 5)}, where the run has "
                f"{quoted(trained, 5)}: classes of COCO's JSON and YOLO's yaml keep the order of their file, VOC's are "
                "sorted"
            )
        require_same_classes(dataset, self.preprocessing)

    def check_source(self, source: Source) -> None:
        """Raise DataError if an object has no mask and needs one, or a photograph has too many, as far as data say."""
        if source.annotations is None:
            return
        source.annotations.require_at_most(self.options.most_objects)
        if self._kind.masks:
            source.annotations.require_masks()

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return the network of the config, with a column of scores for each class."""
        return build_network(self.config, self.preprocessing, self.num_columns, rngs)

    def prepare(self, batch: Mapping[str, Array], key: RandomKey) -> tuple[Array, Any, Array]:
        """Return augmented images; what the losses of this kind of detector need; and what they are divided by."""
        images, flips = self._augment(batch["image"], batch["placement"], key)
        sizes = batch["placement"][:, 4:6]
        flipped = {"boxes": flipped_boxes(batch["boxes"], flips, sizes[:, 1])}
        if self._kind.masks:
            flipped["masks"] = flipped_masks(batch["masks"], flips)
        objects = self._objects({**batch, **flipped})
        # Folded in otherwise than what `aa_flax.tasks.augmentation` and `mixing` draw from.
        targets, total = self._kind.prepare(objects, images.shape[1:3], sizes, jax.random.fold_in(key, 8))
        return images, targets, total

    def losses(
        self, model: Any, images: Array, targets: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Array, dict[str, tuple[Array, Any]]]:
        """Return each image's loss, and the parts of the loss."""
        return self._kind.losses(model, images, targets, train=train, rngs=rngs)

    def predict(self, model: Any, images: Array, placement: Array | None) -> dict[str, Any]:
        """Return what the network gives for images that lie on their canvas so; None, that fill it."""
        whole = jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.float32), (images.shape[0], 2))
        return self._kind.predict(model, images, whole if placement is None else placement[:, 4:6])

    def serve(self, model: Any, images: Array, sizes: Array, form: str) -> dict[str, Array]:
        """Return the detections after non-maximum suppression, or the candidates before it; see `served_objects`."""
        if form == "candidates":
            return candidates_of(*self._kind.candidates(model, images, sizes), self._columns)
        found = self._kind.detections(self._kind.predict(model, images, sizes), images.shape[1:3], sizes)
        return objects_of(found, self.labels)

    @property
    def needs_loops(self) -> tuple[str, ...]:
        """The forms whose programs have loops."""
        return self._kind.needs_loops

    def rows(self, predictions: dict[str, Any], images: Array, placement: Array) -> dict[str, Array]:
        """Return the detections of each image, boxes in pixels of the canvas."""
        found = self._kind.detections(predictions, images.shape[1:3], placement[:, 4:6])
        return {name: values for name, values in found._asdict().items() if values is not None}

    def score(self, predictions: dict[str, Any], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the sums of the parts of the loss, and the number of images."""
        numbers = self._kind.score(predictions, self._objects(batch), batch["image"].shape[1:3])
        numbers["images"] = jnp.ones(len(batch["mask"]))
        return {name: jnp.where(batch["mask"], each, 0).sum() for name, each in numbers.items()}

    def scorer(self, source: Source) -> DetectionScorer:
        """Return what gathers the detections of held-out data and scores them."""
        self.check_source(source)
        kind = self._kind
        return DetectionScorer(source, self.preprocessing.class_names, self.labels.tolist(), kind.held_out, kind.masks)

    def scores(self, sums: Mapping[str, Any]) -> Scores:
        """Raise TypeError: average precision does not follow from sums, see `scorer`."""
        raise TypeError("the scores of detection do not follow from sums; `scorer` gives them")

    def lines(self, scores: Scores) -> list[str]:
        """Return a line with the average precision of each class, of boxes and, if there are any, of masks."""
        return lines_by_class(scores.details, self.shown_names)

    def report(self, model: nnx.Module, scores: Scores, source: Source, folder: Path) -> None:
        """Write the detections in COCO's format, and draw what was found and missed, into a folder."""
        write_detections(scores.drawn, source, folder)
        if scores.drawn.truths is not None:
            draw_report(scores.drawn, source, folder)

    def mark(self, axes: Any, example: Mapping[str, Any]) -> None:
        """Draw the boxes, and masks if there are any, of an example over its picture."""
        if "masks" in example and example["masks"].dtype == object:  # of a photograph, where they are still texts
            size = example["image"].shape[:2]
            example = self.targets.placed(example, resized(size)(*size).as_array())
        valid = np.asarray(example["valid"])
        boxes, labels = np.asarray(example["boxes"], np.float64)[valid], np.asarray(example["classes"])[valid].tolist()
        masks = example["masks"][valid] if "masks" in example else [None] * len(labels)
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            if mask is not None:
                square(axes, mask, box, class_color(label))
            outline(axes, box, class_color(label), width=0.8)

    def key(self, examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[float, float, float]]]:
        """Return name and colour of each class that occurs in examples, in the order of the classes."""
        labels = np.concatenate([np.asarray(one["classes"])[np.asarray(one["valid"])] for one in examples])
        return [(self.shown_names[label], class_color(label)) for label in np.unique(labels).tolist()]

    def attention_drawer(self, model: nnx.Module) -> Any:
        """Return the function (pixels, row, placement, display, file) that draws what the objects found attend to.

        The pixels are those of the canvas, the row is what `rows` gives for it; of objects with the score that is asked
        for the surest are drawn, or else the surest of all.

        Raises:
            AttentionError: the backbone does not attend.
        """
        attention = ObjectAttention(model)

        def draw(pixels: np.ndarray, row: Any, placement: np.ndarray, display: DetectionDisplay, file: Path) -> None:
            every = on_canvas(row, self.labels)
            shown = every.at_least(display.threshold)
            shown = shown if len(shown.scores) else every
            image = self.preprocessing.normalize(jnp.asarray(pixels)[None], jnp.asarray(placement)[None])[0]
            size = int(placement[4]), int(placement[5])
            objects = shown.boxes, shown.labels, shown.scores
            draw_objects(attention, image, pixels, *objects, self.shown_names, size=size, file=file)

        return draw

    def title(self, example: Mapping[str, Any]) -> str:
        """Return how many objects of each class there are, the most first, such as "2 cat, 1 dog"."""
        labels = np.asarray(example["classes"])[np.asarray(example["valid"])]
        counts = np.bincount(labels, minlength=len(self.shown_names))
        most_first = [label for label in np.argsort(-counts, kind="stable") if counts[label]]
        return ", ".join(f"{counts[label]} {self.shown_names[label]}" for label in most_first) or "nothing"

    def found(self, row: Mapping[str, np.ndarray], placement: np.ndarray) -> FoundObjects:
        """Return the objects found in a photograph, in its own pixels and within it."""
        return in_photo(on_canvas(row, self.labels), placement)

    @property
    def has_masks(self) -> bool:
        """Whether the network finds masks."""
        return self._kind.masks

    def mask_picture(self, prediction: FoundObjects, display: DetectionDisplay) -> Any:
        """Return a picture whose pixels are the numbers of the objects found, from 1 in falling score; 0 is none."""
        shown = prediction.at_least(display.threshold)
        assert shown.masks is not None, f"{self.config.model.name} finds boxes and no masks"
        return instance_map(shown.masks, shown.size, [class_color(number) for number in range(len(shown.masks))])

    def describe(self, prediction: FoundObjects, display: DetectionDisplay) -> list[str]:
        """Return a line for each object found: score, class, and box in the photograph's pixels."""
        lines = prediction.at_least(display.threshold).lines(self.shown_names)
        return lines or [f"  nothing with a score of {display.threshold} or more"]

    def captions(self, prediction: FoundObjects) -> list[tuple[int, str]]:
        """Return the number of the class, and the name and score, of each object found, the surest first."""
        return prediction.captions(self.shown_names) or [(0, "nothing found")]

    def values(self, prediction: FoundObjects, display: DetectionDisplay) -> list[dict[str, Any]]:
        """Return each object found as JSON has it: box, score, class, and the numbers of the class.

        The box is x1, y1, x2, y2 in the photograph's pixels. "label" is the number of the class here, from 0,
        "category_id" that of the data set's files, as in `detections.json`. A mask, "segmentation", is as COCO has it:
        run lengths at the photograph's size.
        """
        names = self.preprocessing.class_names
        ids = self.preprocessing.category_ids or range(1, len(names) + 1)
        return prediction.at_least(display.threshold).values(names, ids)

    def recorded_display(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the score of the best F1 on the run's held-out data, if its result has one, as the threshold."""
        threshold = result.get("threshold") if result.get("F1", 1.0) else None  # of F1 0 no threshold is best
        return {"threshold": threshold} if isinstance(threshold, int | float) and 0 <= threshold < 1 else {}

    def result(self, prediction: FoundObjects, display: DetectionDisplay, photo: Any) -> Detections:
        """Return the prediction as Python has it; `photo` returns the photograph's pixels."""
        return Detections(self, prediction, display, photo)

    def draw(self, prediction: FoundObjects, pixels: np.ndarray, display: DetectionDisplay, file: Any) -> None:
        """Draw the objects found over the photograph, each with its name and score."""
        shown = prediction.at_least(display.threshold)
        masks = None if shown.masks is None else [mask.pixels() for mask in shown.masks]
        draw_boxes(pixels, shown.boxes, shown.labels, self.shown_names, shown.scores, file, masks=masks)

    def _objects(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the objects on the canvas, each with the column of its class."""
        boxes = jnp.where(batch["valid"][..., None], batch["boxes"], 0)
        columns = table_rows(jnp.asarray(self._columns, jnp.int32), batch["classes"])
        masks = {"masks": batch["masks"]} if self._kind.masks else {}
        return {"boxes": boxes, "columns": columns, "valid": batch["valid"], **masks}
