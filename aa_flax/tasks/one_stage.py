"""Training and reading a dense detector, whose anchors find the objects in one step: RetinaNet."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.config.schema import Config, ConfigError
from aa_flax.models.detections import Detections, decoded, detections
from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.ops.sigmoid import sigmoid
from aa_flax.tasks.detection_losses import image_losses, matched, shares
from aa_flax.tasks.micro_batches import piece_of_each
from aa_flax.tasks.task import RandomKey


class OneStage:
    """The kind of detector with a score for each anchor and class; see `aa_flax.tasks.detector_kinds`."""

    masks = False
    needs_loops = ("detections",)
    metrics: Mapping[str, Any] = {"class_loss": jnp.float32, "box_loss": jnp.float32, "positives": jnp.float32}

    def __init__(self, network: RetinaNetOptions, config: Config) -> None:
        self._network, self._config = network, config

    def check(self) -> None:
        """Raise ConfigError unless the batch divides into the parts of the loss."""
        parts = self._config.parallel.batch_norm_groups
        if self._network.normalizer == "device" and self._config.batch_size % parts:
            raise ConfigError(
                f"config field 'batch_size' ({self._config.batch_size}) must divide by 'parallel.batch_norm_groups' "
                f"({parts}), the parts of the batch that the normalizer 'device' takes apart"
            )

    def prepare(
        self, objects: dict[str, Array], canvas: tuple[int, ...], sizes: Float[Array, "b 2"], key: RandomKey
    ) -> tuple[dict[str, Array], Float[Array, ""]]:
        """Return the objects, which anchor is to find which, and what the losses are divided by.

        Besides the objects' the targets are {"matched" [b, anchors], "weight" [b], "total" [b]}, where the sum of
        "total" over the batch is the number that is returned. The normalizer "running" has "all_positives" [b], for
        every image those of the whole batch, and the micro-batch of each, "piece" [b].
        """
        targets = self._matched(objects, canvas)
        positives = _positives(targets)
        weights, total = shares(self._network, positives, self._config.parallel.batch_norm_groups)
        targets |= {"weight": weights, "total": jnp.broadcast_to(total / len(weights), weights.shape)}
        if self._network.normalizer == "running":
            targets["all_positives"] = jnp.broadcast_to(jnp.maximum(positives.sum(), 1), weights.shape)
            targets["piece"] = piece_of_each(len(weights), self._config.optimizer.accumulation_steps)
        return targets, total

    def losses(
        self, model: Any, images: Array, targets: dict[str, Array], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Any]]]:
        """Return each image's loss, times its weight; the parts of the loss, and the positive anchors of an image."""
        classes, boxes = self._parts(model(images, train=train, rngs=rngs), targets, images.shape[1:3])
        weight, total = targets["weight"], targets["total"].sum()
        if self._network.normalizer == "running":
            # Once a step: all micro-batches have the same number, and the first one takes it in.
            first = (targets["piece"] == 0).any()
            weight = weight / model.loss_normalizer(targets["all_positives"].max(), update=first & train)
        positives = _positives(targets)
        metrics = {
            "class_loss": ((weight * classes).sum(), total),
            "box_loss": ((weight * boxes).sum(), total),
            "positives": (positives.sum(), jnp.asarray(positives.size, positives.dtype)),
        }
        return weight * (classes + boxes), metrics

    def predict(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> dict[str, Any]:
        """Return the network's outputs, scores of classes and offsets of boxes for every anchor."""
        return model(images, train=False, rngs=None)

    def detections(
        self, predictions: dict[str, Any], canvas: tuple[int, ...], sizes: Float[Array, "b 2"]
    ) -> Detections:
        """Return the objects found in each image, boxes in pixels of the canvas."""
        network = self._network
        levels = network.level_anchors(*canvas)
        return detections(predictions, network.anchor_boxes(*canvas), network, level_anchors=levels, sizes=sizes)

    def candidates(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> tuple[Array, Array]:
        """Return the scores of each anchor, [b, anchors, columns], and its box, [b, anchors, 4]."""
        outputs, network = self.predict(model, images, sizes), self._network
        boxes = decoded(network, outputs["boxes"], network.anchor_boxes(*images.shape[1:3])[None], sizes)
        return sigmoid(outputs["classes"]), boxes

    def score(
        self, predictions: dict[str, Any], objects: dict[str, Array], canvas: tuple[int, ...]
    ) -> dict[str, Array]:
        """Return the parts of each image's loss, and its positive anchors."""
        targets = self._matched(objects, canvas)
        classes, boxes = self._parts(predictions, targets, canvas)
        positives = _positives(targets)
        if self._network.normalizer == "image":
            classes, boxes = (each / jnp.maximum(positives, 1) for each in (classes, boxes))
        return {"class_loss": classes, "box_loss": boxes, "positives": positives}

    def held_out(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Return the losses over the positives of all images and 1, or as the mean of each image's own."""
        by_image = self._network.normalizer == "image"
        total = float(sums["images"]) if by_image else float(sums["positives"]) + 1
        classes, boxes = float(sums["class_loss"]) / total, float(sums["box_loss"]) / total
        return {"loss": classes + boxes, "class_loss": classes, "box_loss": boxes}

    def _matched(self, objects: dict[str, Array], canvas: tuple[int, ...]) -> dict[str, Array]:
        """Return the objects, and which anchor is to find which."""
        anchors = self._network.anchor_boxes(*canvas)
        return {**objects, "matched": matched(self._network, anchors, objects["boxes"], objects["valid"])}

    def _parts(self, outputs: dict[str, Array], targets: Any, canvas: tuple[int, ...]) -> tuple[Array, Array]:
        return image_losses(self._network, outputs, self._network.anchor_boxes(*canvas), targets)


def _positives(targets: dict[str, Array]) -> Array:
    """Return how many anchors of each image are to find an object, as float32."""
    return (targets["matched"] >= 0).sum(1, dtype=jnp.float32)
