"""Training and reading a detector that looks again at the regions it proposes: Faster R-CNN."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.config.schema import Config
from aa_flax.models.detections import Detections
from aa_flax.models.rcnn_options import RCNNOptions
from aa_flax.models.region_detections import region_candidates
from aa_flax.ops.matching import IGNORED
from aa_flax.tasks.proposal_losses import SampledAnchors, proposal_losses, sampled_anchors
from aa_flax.tasks.region_losses import SampledRegions, region_losses, sampled_regions, with_objects
from aa_flax.tasks.task import RandomKey

_LOSSES = ("objectness_loss", "proposal_loss", "class_loss", "box_loss")


class TwoStage:
    """The kind of detector that proposes regions and classifies them; see `aa_flax.tasks.detector_kinds`.

    What is random of an image, which of its anchors and regions the losses look at, is drawn with a key of its own: a
    function of the step's key and the image's place in the batch. Held-out losses draw with one key for all images.
    """

    masks = False
    needs_loops = ("detections", "candidates")
    more_names: tuple[str, ...] = ()
    """Names of the losses of `more_losses`."""

    def __init__(self, network: RCNNOptions, config: Config) -> None:
        self._network, self._config = network, config
        names = (*_LOSSES, *self.more_names, "positives")
        self.metrics: Mapping[str, Any] = dict.fromkeys(names, jnp.float32)

    def check(self) -> None:
        """Accept every batch."""

    def more_losses(
        self, model: Any, maps: dict[str, Array], regions: SampledRegions, targets: dict[str, Array]
    ) -> dict[str, Float[Array, " b"]]:
        """Return each image's losses of other heads, by name, for their mean over the images; none here.

        Args:
            model: the network.
            maps: of its `features`.
            regions: those that the losses look at, the ones with an object first.
            targets: what `prepare` gave.
        """
        return {}

    def prepare(
        self, objects: dict[str, Array], canvas: tuple[int, ...], sizes: Float[Array, "b 2"], key: RandomKey
    ) -> tuple[dict[str, Array], Float[Array, ""]]:
        """Return the objects, what is drawn of each image's anchors, the key of its regions; and the number of images.

        Besides the objects' the targets are {"anchors" and "matches" [b, n], see `SampledAnchors`; "weight" [b], what
        an image's sums over anchors count; "sizes" [b, 2]; "keys" [b]}. The number of sampled anchors, by which
        torchvision divides their losses, is that of the whole batch; detectron2 divides by the number it asks for.
        """
        images = len(sizes)
        keys = _own_keys(key, images)
        anchors = self._network.anchor_boxes(*canvas)
        sampled = sampled_anchors(self._network, anchors, objects["boxes"], objects["valid"], keys[:, 0])
        count = (sampled.matches != IGNORED).sum(dtype=jnp.float32)
        if self._network.rpn_normalizer == "images":
            count = jnp.float32(images * self._network.rpn_samples)
        targets = {
            **objects,
            "anchors": sampled.indices,
            "matches": sampled.matches,
            "weight": jnp.broadcast_to(images / jnp.maximum(count, 1), (images,)),
            "sizes": sizes,
            "keys": keys[:, 1],
        }
        return targets, jnp.float32(images)

    def losses(
        self, model: Any, images: Array, targets: dict[str, Array], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Any]]]:
        """Return each image's loss; its parts, and the sampled regions of an image that have an object."""
        canvas = images.shape[1:3]
        maps = model.features(images, train=train, rngs=rngs)
        outputs = model.propose(maps, *canvas, sizes=targets["sizes"], train=train)
        boxes, valid = outputs["proposals"], outputs["valid"]
        if self._network.truths_are_proposals:
            boxes, valid = with_objects(boxes, valid, targets)
        regions = sampled_regions(self._network, boxes, valid, targets, targets["keys"])
        of_regions = region_losses(self._network, model.box_outputs(maps, regions.boxes), regions, targets)
        anchors = SampledAnchors(targets["anchors"], targets["matches"])
        of_anchors = self._of_anchors(outputs, targets, canvas, anchors)
        parts = dict(zip(_LOSSES, (*(targets["weight"] * each for each in of_anchors), *of_regions), strict=True))
        parts |= self.more_losses(model, maps, regions, targets)
        positives = (regions.matches >= 0).sum(1, dtype=jnp.float32)
        count = jnp.float32(images.shape[0])
        metrics = {name: (each.sum(), count) for name, each in {**parts, "positives": positives}.items()}
        return jnp.stack([*parts.values()]).sum(0), metrics

    def predict(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> dict[str, Any]:
        """Return the network's outputs for every anchor and proposal, and what it finds by them, "found"."""
        canvas = images.shape[1:3]
        maps = model.features(images, train=False)
        outputs = model.propose(maps, *canvas, sizes=sizes, train=False)
        of_regions = model.box_outputs(maps, outputs["proposals"])
        found = model.detections(of_regions, outputs["proposals"], outputs["valid"], *canvas, sizes=sizes)
        return {**outputs, **of_regions, "found": found._replace(masks=model.masks(maps, found))}

    def detections(
        self, predictions: dict[str, Any], canvas: tuple[int, ...], sizes: Float[Array, "b 2"]
    ) -> Detections:
        """Return the objects found in each image, boxes in pixels of the canvas."""
        return predictions["found"]

    def candidates(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> tuple[Array, Array]:
        """Return the scores of each proposal, [b, n, columns], and its box for each class, [b, n, classes, 4].

        The proposals themselves are suppressed, as in detection.
        """
        maps = model.features(images, train=False)
        proposed = model.propose(maps, *images.shape[1:3], sizes=sizes, train=False)
        outputs = model.box_outputs(maps, proposed["proposals"])
        return region_candidates(outputs, proposed["proposals"], proposed["valid"], self._network, sizes=sizes)

    def score(
        self, predictions: dict[str, Any], objects: dict[str, Array], canvas: tuple[int, ...]
    ) -> dict[str, Array]:
        """Return the parts of each image's loss, and how many of its anchors these are of.

        Regions are drawn of the proposals alone, the objects not among them, as nothing else went through the network.
        """
        images = len(objects["valid"])
        keys = jnp.broadcast_to(jax.random.key(0), (images,))
        anchors = self._network.anchor_boxes(*canvas)
        sampled = sampled_anchors(self._network, anchors, objects["boxes"], objects["valid"], keys)
        regions = sampled_regions(self._network, predictions["proposals"], predictions["valid"], objects, keys)
        of_them = {
            "classes": jnp.take_along_axis(predictions["classes"], regions.indices[..., None], 1),
            "boxes": jnp.take_along_axis(predictions["boxes"], regions.indices[..., None, None], 1),
        }
        of_anchors = self._of_anchors(predictions, objects, canvas, sampled)
        parts = (*of_anchors, *region_losses(self._network, of_them, regions, objects))
        count = (sampled.matches != IGNORED).sum(1, dtype=jnp.float32)
        return {**dict(zip(_LOSSES, parts, strict=True)), "anchors": count}

    def held_out(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Return the losses of anchors over the number of these, and the mean over images of those of regions."""
        images = float(sums["images"])
        totals = dict(zip(_LOSSES, (float(sums["anchors"]),) * 2 + (images,) * 2, strict=True))
        parts = {name: float(sums[name]) / max(total, 1) for name, total in totals.items()}
        return {"loss": sum(parts.values()), **parts}

    def _of_anchors(
        self, outputs: dict[str, Array], objects: dict[str, Array], canvas: tuple[int, ...], sampled: SampledAnchors
    ) -> tuple[Array, Array]:
        return proposal_losses(self._network, outputs, self._network.anchor_boxes(*canvas), objects["boxes"], sampled)


def _own_keys(key: RandomKey, images: int) -> Array:
    """Return two keys for each image, [images, 2], a function of the key and the image's place."""
    return jax.vmap(lambda place: jax.random.split(jax.random.fold_in(key, place)))(jnp.arange(images))
