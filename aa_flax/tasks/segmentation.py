"""Training a network to name the class of each pixel of an image."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from PIL import Image

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.augment.device import flipped
from aa_flax.data.datasets import Dataset
from aa_flax.data.label_maps import IGNORED, MOST_CLASSES, LabelMap
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.source import Source
from aa_flax.data.targets import Targets
from aa_flax.drawing.label_maps import as_picture, label_colors
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.segmentation_gallery import draw_segments_over
from aa_flax.evaluation.resized_logits import label_map
from aa_flax.literal import told_apart
from aa_flax.models.registry import options_around
from aa_flax.ops import resize_bilinear
from aa_flax.precision import at_least_float32
from aa_flax.tasks.augmentation import make_placed_augment, require_targets_in_place
from aa_flax.tasks.class_weights import check_weights
from aa_flax.tasks.network import build_network, require_same_classes
from aa_flax.tasks.options import options_of
from aa_flax.tasks.results import Segmentation as Result
from aa_flax.tasks.segmentation_losses import held_out_losses, image_losses, pixel_weights, presence_losses
from aa_flax.tasks.segmentation_options import (
    SegmentationDisplay,
    SegmentationOptions,
    require_whole_photographs,
    windows,
)
from aa_flax.tasks.segmentation_report import Segment, attentions, draw_attention, draw_report, make_segment
from aa_flax.tasks.segmentation_scores import SegmentationScorer
from aa_flax.tasks.segmentation_views import View, all_views, planes
from aa_flax.tasks.segmented import Segmented
from aa_flax.tasks.task import RandomKey, Scores


class Segmentation:
    """The task of naming the class of each pixel, scored by the mean intersection over union of the classes."""

    headline = "mIoU"
    fractions = frozenset({"mIoU", "mean_accuracy", "pixel_accuracy", "IoU_per_class", "accuracy_per_class"})
    display = SegmentationDisplay
    options_type = SegmentationOptions
    has_masks = True
    scoring_options = ("window", "stride", "scales", "flip")
    serves = ("labels", "logits")

    def __init__(self, config: Config, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self.options = options_of(config, SegmentationOptions)
        self.targets: Targets = LabelMap(preprocessing.height_and_width)
        require_targets_in_place(config, "labels")
        require_whole_photographs(preprocessing)
        if preprocessing.num_classes > MOST_CLASSES:
            raise ConfigError(f"{preprocessing.num_classes} classes, expected at most {MOST_CLASSES}")
        if self.options.class_weights:
            check_weights(self.options.class_weights, preprocessing.class_names)
        self._augment = make_placed_augment(config, preprocessing)
        try:
            around = options_around(config.model.name, **config.model.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config field 'model': {error}") from None
        if not hasattr(around, "auxiliary_weight"):
            raise ConfigError(f"config field 'model.name' is {config.model.name!r}, which gives no class to each pixel")
        self._auxiliary_weight = around.auxiliary_weight
        self._presence_weight = around.presence_weight if around.presence_head else 0.0
        names = ("main_loss", "auxiliary_loss", "pixel_accuracy", *(("presence_loss",) if around.presence_head else ()))
        self.metrics: Mapping[str, Any] = dict.fromkeys(names, jnp.float32)
        self._window, self._stride = windows(self.options)

    @functools.cached_property
    def shown_names(self) -> list[str]:
        """The name of each class as it is printed and drawn, different from all others."""
        return told_apart(self.preprocessing.class_names)

    @functools.cached_property
    def colors(self) -> UInt8[np.ndarray, "256 3"]:
        """Red, green and blue of each label: the data set's own, if it has colours."""
        return label_colors(self.num_classes, self.preprocessing.class_colors)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.preprocessing.class_names)

    def check(self, devices: int) -> None:
        """Do nothing: batches can be split over any number of devices."""

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise ConfigError unless the classes are those that the network was trained on."""
        if not dataset.has_label_maps:
            raise ConfigError(f"{dataset.name} has no label maps; the run was trained to name the class of each pixel")
        require_same_classes(dataset, self.preprocessing)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return the network of the config, with logits for each class."""
        return build_network(self.config, self.preprocessing, self.num_classes, rngs)

    def prepare(self, batch: Mapping[str, Array], key: RandomKey) -> tuple[Array, Any, Array]:
        """Return augmented images; the labels of their pixels; what the sum of all pixels' losses is divided by.

        The targets are {"labels" uint8 [b, h, w], "share" [b]}, where the sum of "share" over the batch is the number
        that is returned. With the option `average` = "valid" that is the sum of the weights of all pixels that have a
        class, 1 if none has one.
        """
        images, flips = self._augment(batch["image"], batch["placement"], key)
        labels = flipped(batch["labels"][..., None], flips, batch["placement"][:, 5])[..., 0]
        compute = at_least_float32(images.dtype)
        if self.options.average == "all":
            total = jnp.asarray(labels.size, compute)
        elif self.options.class_weights:
            weighted = pixel_weights(labels, self._weights(compute))
            total = jnp.where(weighted.any(), weighted.sum(), 1)
        else:
            total = jnp.maximum((labels != IGNORED).sum(dtype=compute), 1)
        return images, {"labels": labels, "share": jnp.broadcast_to(total / len(labels), len(labels))}, total

    def losses(
        self, model: Any, images: Array, targets: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Array, dict[str, tuple[Array, Any]]]:
        """Return the sum of the losses of each image's pixels: of the main logits, and of the auxiliary ones.

        Those count as much as the network's option `auxiliary_weight` says. With a presence head the mean of its losses
        over the images counts besides, as much as `presence_weight` says. The metrics are the losses without these
        weights, and the part of the pixels that have a class in which the main logits are largest for it.
        """
        outputs = model(images, train=train, rngs=rngs)
        outputs = outputs if isinstance(outputs, Mapping) else {"logits": outputs}
        labels, total = targets["labels"], targets["share"].sum()
        weights = self._weights(total.dtype) if self.options.class_weights else None
        main, right = image_losses(outputs["logits"], labels, weights)
        auxiliary = jnp.zeros_like(main)
        if "auxiliary" in outputs:
            auxiliary, _ = image_losses(outputs["auxiliary"], labels, weights)
        metrics = {
            "main_loss": (main.sum(), total),
            "auxiliary_loss": (auxiliary.sum(), total),
            "pixel_accuracy": (right.sum(), (labels != IGNORED).sum(dtype=right.dtype)),
        }
        losses = main + self._auxiliary_weight * auxiliary
        if self._presence_weight:
            # Divided by `total` like the pixels' losses, and so the mean over the images.
            presence = targets["share"] * presence_losses(outputs["presence"], labels)
            metrics["presence_loss"] = (presence.sum(), total)
            losses += self._presence_weight * presence
        return losses, metrics

    def predict(
        self, model: Any, images: Float[Array, "b h w c"], placement: Float[Array, "b 8"] | None
    ) -> dict[str, Array]:
        """Return the logits of each view by its name, [b, down, right, hs, ws, classes] of its windows.

        "canvas" [b, 2] is the height and width of the images.
        """
        height, width = images.shape[1:3]
        canvas = jnp.broadcast_to(jnp.asarray([height, width], jnp.int32), (len(images), 2))
        sizes = canvas.astype(jnp.float32) if placement is None else placement[:, 4:6]

        def network(images: Array) -> Array:
            return model(images, train=False, rngs=None)

        found = {view.name: view.logits(network, images, sizes) for view in self._views((height, width))}
        return {**found, "canvas": canvas}

    @property
    def served_size(self) -> tuple[int, ...]:
        """The height and width of what a program gets that serves the network: of its windows, if it has some."""
        return self._window or self.preprocessing.image_size

    def serve(
        self, model: Any, images: Float[Array, "b h w c"], sizes: Float[Array, "b 2"], form: str
    ) -> dict[str, Array]:
        """Return the class of each pixel, uint8 [b, h, w], or the logits of each, float32 [b, h, w, classes]."""
        logits = resize_bilinear(model(images, train=False, rngs=None).astype(jnp.float32), *images.shape[1:3])
        return {form: logits if form == "logits" else jnp.argmax(logits, -1).astype(jnp.uint8)}

    def score(self, predictions: dict[str, Array], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the sum of the cross-entropies of all pixels of the canvas that have a class, and their number.

        They are of the view that is neither scaled nor mirrored.
        """
        height, width = batch["image"].shape[1:3]
        view = next(view for view in self._views((height, width)) if view.scale == 1)
        logits, sizes, mask = predictions[view.name], batch["placement"][:, 4:6], batch["mask"]
        losses = held_out_losses(view, logits, batch["labels"], sizes)
        pixels = (batch["labels"] != IGNORED).sum((1, 2), dtype=losses.dtype)
        return {"loss": jnp.where(mask, losses, 0).sum(), "pixels": jnp.where(mask, pixels, 0).sum()}

    def scorer(self, source: Source) -> SegmentationScorer:
        """Return what segments photographs of held-out data at their own size and scores them."""
        return SegmentationScorer(source, self.preprocessing.class_names, self._labels)

    def scores(self, sums: Mapping[str, Any]) -> Scores:
        """Raise TypeError: the classes of pixels at a photograph's own size do not follow from sums, see `scorer`."""
        raise TypeError("the scores of segmentation do not follow from sums; `scorer` gives them")

    def lines(self, scores: Scores) -> list[str]:
        """Return a line with the intersection over union of each class."""
        by_class = scores.details["IoU_per_class"].values()
        return [
            f"     - %  {name}, no pixels" if value is None else f"{100 * value:6.2f} %  {name}"
            for name, value in zip(self.shown_names, by_class, strict=True)
        ]

    def report(self, model: nnx.Module, scores: Scores, source: Source, folder: Path) -> None:
        """Draw what is right and wrong, by class and in photographs, and what is attended to, into a folder."""
        draw_report(model, self._segment(model), scores, source, self.preprocessing, self.colors, folder)

    def mark(self, axes: Any, example: Mapping[str, Any]) -> None:
        """Draw the classes of the pixels of an example over its picture."""
        labels = np.asarray(example["labels"])
        shown = np.dstack([self.colors[labels], np.where(labels == IGNORED, 0, 140).astype(np.uint8)])
        axes.imshow(shown, interpolation="nearest")

    def key(self, examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[float, float, float]]]:
        """Return name and colour of each class that occurs in examples, those with the most pixels first."""
        counts = np.sum([np.bincount(np.ravel(one["labels"]), minlength=256) for one in examples], axis=0)
        order = np.argsort(-counts[: self.num_classes], kind="stable").tolist()
        return [(self.shown_names[k], tuple(self.colors[k] / 255)) for k in order if counts[k]]

    def attention_drawer(self, model: nnx.Module) -> Any:
        """Return the function (pixels, row, placement, display, file) that draws what segments attend to.

        With a presence head that is where its attention pooling looks for their classes. The pixels are those of the
        canvas, the row is what the network gives for it.

        Raises:
            AttentionError: neither the backbone nor a pooling attends.
        """
        if not (found := attentions(model)):
            raise AttentionError(
                f"--attention: this {type(model).__name__} has no attention to draw; those on a backbone aa_* have, "
                "and all with presence_head=True"
            )
        attention = found[-1]

        def draw(pixels: np.ndarray, row: Any, placement: np.ndarray, display: SegmentationDisplay, file: Path) -> None:
            def segment(pixels: np.ndarray, placement: np.ndarray) -> np.ndarray:
                return self._labels(row, placement)

            draw_attention(attention, segment, self.preprocessing, self.colors, pixels, placement, file)

        return draw

    def title(self, example: Mapping[str, Any]) -> str:
        """Return the names of the classes of an example, the largest first."""
        labels = np.asarray(example["labels"])
        counts = np.bincount(labels[labels != IGNORED], minlength=self.num_classes)
        order = np.argsort(-counts, kind="stable")
        return ", ".join(self.shown_names[k] for k in order if counts[k]) or "nothing"

    def found(self, row: Mapping[str, np.ndarray], placement: np.ndarray) -> Segmented:
        """Return the class of each pixel of a photograph, at its own size."""
        return Segmented(self._labels(row, placement))

    def describe(self, prediction: Segmented, display: SegmentationDisplay) -> list[str]:
        """Return a line for each class that is there: its part of the pixels, and its name."""
        return prediction.lines(self.shown_names, display.least_part)

    def captions(self, prediction: Segmented) -> list[tuple[int, str]]:
        """Return the number of each class that is there with its name and part of the pixels, the largest first."""
        parts = prediction.parts(self.num_classes)
        return [(k, f"{self.shown_names[k]}\n{100 * part:.1f} %") for k, _, part in parts]

    def values(self, prediction: Segmented, display: SegmentationDisplay) -> dict[str, Any]:
        """Return the photograph's size and its classes, with their pixels, as JSON has them."""
        return prediction.values(self.preprocessing.class_names, display.least_part)

    def result(self, prediction: Segmented, display: SegmentationDisplay, photo: Any) -> Result:
        """Return the prediction as Python has it; `photo` returns the photograph's pixels."""
        return Result(self, prediction, display, photo)

    def draw(self, prediction: Segmented, pixels: np.ndarray, display: SegmentationDisplay, file: Any) -> None:
        """Draw the colours of the classes over the photograph, with their names below."""
        draw_segments_over(
            pixels, prediction.labels, self.preprocessing.class_names, self.colors, display.opacity, file
        )

    def mask_picture(self, prediction: Segmented, display: SegmentationDisplay) -> Image.Image:
        """Return a picture with a palette, whose pixels are the numbers of their classes, shown in their colours."""
        return as_picture(prediction.labels, self.colors)

    def _segment(self, model: nnx.Module) -> Segment:
        return make_segment(model, self.predict, self._labels, self.preprocessing)

    def _weights(self, dtype: Any) -> Float[Array, " classes"]:
        return jnp.asarray(self.options.class_weights, dtype)

    def _views(self, canvas: tuple[int, int]) -> list[View]:
        return all_views(canvas, self.options.scales, self.options.flip, self._window, self._stride)

    def _labels(self, row: Mapping[str, np.ndarray], placement: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """Return the class of each pixel of a photograph, from the logits of each view."""
        height, width = (int(side) for side in row["canvas"])
        return label_map(planes(self._views((height, width)), row, placement))
