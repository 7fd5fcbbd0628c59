"""Faster R-CNN (Ren et al., 2015) on a feature pyramid (Lin et al., 2017), around any backbone."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from aa_flax.layers.box_head import BoxHead
from aa_flax.layers.proposal_head import ProposalHead
from aa_flax.models.detections import Detections
from aa_flax.models.entries import Family, Flavor
from aa_flax.models.pyramid_detector import PyramidDetector, sizes_of
from aa_flax.models.rcnn_options import FLAVORS, RCNNOptions
from aa_flax.models.region_detections import region_detections
from aa_flax.models.registry import register_family
from aa_flax.ops.levels import join_levels
from aa_flax.ops.proposals import top_proposals
from aa_flax.ops.roi_align import roi_align


class FasterRCNN(PyramidDetector):
    """A two-stage detector: a network proposes boxes, and a head looks at the features inside each.

    The first stage moves anchors on all levels of the pyramid, and says of each whether it holds an object. The best
    boxes are the proposals. RoIAlign takes the features of a proposal from one of the levels of which the backbone has
    maps, by its size, and the box head gives a score for each class and background, and moves the box once more, for
    each class its own way. `RCNNOptions` say what implementations differ in.

    A call ends with the proposals; `detect` goes to the end. In training the task draws anchors and proposals, and
    calls `propose` and `box_outputs` itself.

    Args:
        options: of what stands around the backbone, and of training and detection.
        backbone: a network with `features` and `feature_info`, at stride 2**l for every level l from `min_level` to the
            backbone's coarsest one.
        num_classes: in flavor "torchvision" columns of the class scores, of which column 0 is background; in
            "detectron2" classes of objects, and the scores have one column more.

    Raises:
        ValueError: options that no such network can have, or maps that the backbone does not give; at call time images
            that do not fit.
    """

    def __init__(
        self,
        options: RCNNOptions,
        backbone: Any,
        *,
        num_classes: int = 91,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if options.background == "first" and num_classes == 1:
            raise ValueError("num_classes must be at least 2 where the first column is background, got 1")
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        super().__init__(options, backbone, num_classes=num_classes, **arrays)
        self.anchors_per_place = options.anchors().per_place
        width = options.fpn_width
        self.rpn = ProposalHead(
            width, self.anchors_per_place, depth=options.rpn_depth, width=options.rpn_width, **arrays
        )
        self.box_head = BoxHead(
            options.region_size**2 * width,
            options.score_columns(num_classes),
            num_classes,
            depth=options.box_head_depth,
            width=options.box_head_width,
            init=options.head_init,
            **arrays,
        )
        self.eval()  # the first mode of all modules inside

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        *,
        sizes: Any = None,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> dict[str, Array]:
        """Return what `propose` does, of normalised images [b, h, w, c] that lie on their canvas already.

        In training, batch statistics are updated in place, and a backbone with drop path needs `rngs`.

        Raises:
            ValueError: images that do not fit, sizes of another shape, or drop path in training without `rngs`.
        """
        maps = self.features(images, train=train, rngs=rngs)
        return self.propose(maps, *images.shape[1:3], sizes=sizes, train=train)

    def propose(
        self,
        maps: Mapping[str, Float[Array, "b _h _w _c"]],
        height: int,
        width: int,
        *,
        sizes: Any = None,
        train: bool | None = None,
    ) -> dict[str, Array]:
        """Return the outputs of the region proposal network, and the proposals.

        Args:
            maps: of `features`.
            height, width: of the canvas, in pixels.
            sizes: [b, 2], the height and width of each image on the canvas, to which proposals are clipped; None for
                the whole canvas.
            train: whether there are as many proposals as in training; None is the module's mode.

        Returns:
            {"objectness": logits [b, anchors], "proposal_deltas": [b, anchors, 4], in the order of `anchors` and in at
            least float32, "proposals": [b, k, 4] in pixels of the canvas, without gradient and in falling logit,
            "valid": [b, k], which of these k places hold one}.
        """
        outputs = self._proposal_outputs(maps)
        options, trains = self.options, self.trains(train)
        found = top_proposals(
            outputs["objectness"],
            outputs["proposal_deltas"],
            self.anchors(height, width),
            level_anchors=options.level_anchors(height, width),
            sizes=sizes_of(sizes, outputs["objectness"].shape[0], height, width),
            per_level=options.proposals_per_level_in_training if trains else options.proposals_per_level,
            most=options.proposals_in_training if trains else options.proposals,
            iou_threshold=options.proposal_iou_threshold,
            least_side=options.proposal_least_side,
            max_log_side=options.max_log_side,
        )
        return {**outputs, "proposals": found.boxes, "valid": found.valid}

    def box_outputs(
        self, maps: Mapping[str, Float[Array, "b _h _w _c"]], boxes: Float[Array, "b n 4"]
    ) -> dict[str, Array]:
        """Return {"classes": logits [b, n, columns], "boxes": [b, n, num_classes, 4]} of regions of the maps.

        Both are in at least float32; the numbers of boxes are what `decode_boxes` takes with `options.box_weights`. The
        column of a class is the same in both.

        Args:
            maps: of `features`.
            boxes: x1, y1, x2, y2 in pixels of the canvas; no gradient flows into them.
        """
        return self.box_head(self._regions(maps, boxes, self.options.region_size))

    def detect(
        self,
        images: Float[Array, "b h w c"],
        *,
        sizes: Any = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Return what is found in normalised images that lie on their canvas already; `detections` has the arguments.

        Nothing is resized or normalised. The network is in evaluation, whatever its mode.
        """
        maps = self.features(images, train=False)
        proposed = self.propose(maps, *images.shape[1:3], sizes=sizes, train=False)
        found = self.detections(
            self.box_outputs(maps, proposed["proposals"]),
            proposed["proposals"],
            proposed["valid"],
            *images.shape[1:3],
            sizes=sizes,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )
        return found._replace(masks=self.masks(maps, found))

    def detections(
        self,
        outputs: Mapping[str, Array],
        proposals: Float[Array, "b n 4"],
        valid: Bool[Array, "b n"],
        height: int,
        width: int,
        *,
        sizes: Any = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Return the detections, without masks, by the outputs of the box head; it reads no parameter.

        Args:
            outputs: what `box_outputs` returned for the proposals.
            proposals, valid: of `propose`.
            height, width: of the canvas, in pixels.
            sizes: [b, 2], the height and width of each image on the canvas, to which boxes are clipped; None for the
                whole canvas.
            score_threshold: scores must exceed it; None is that of the options.
            iou_threshold: of non-maximum suppression; None is that of the options.
            max_detections: places for detections of an image; None is that of the options.

        Raises:
            ValueError: sizes of another shape, or a threshold outside [0, 1].
        """
        options = self._options_with(
            score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
        )
        sizes = sizes_of(sizes, proposals.shape[0], height, width)
        return region_detections(outputs, proposals, valid, options, sizes=sizes)

    def masks(self, maps: Mapping[str, Array], found: Detections) -> Any:
        """Return None: the network finds boxes only."""
        return None

    def every_head(self, images: Float[Array, "b h w c"]) -> dict[str, Array]:
        """Return the outputs of all heads, those of the second stage for as many boxes as detection has, all alike.

        Every parameter is read, and nothing is sorted or suppressed: for counts of parameters and operations.
        """
        maps = self.features(images)
        whole = jnp.asarray([0, 0, images.shape[2], images.shape[1]], jnp.float32)
        boxes = jnp.broadcast_to(whole, (images.shape[0], self.options.proposals, 4))
        return {**self._proposal_outputs(maps), **self._region_outputs(maps, boxes)}

    def _proposal_outputs(self, maps: Mapping[str, Array]) -> dict[str, Array]:
        objectness, deltas = self.rpn({level: maps[f"p{level}"] for level in self.fpn.levels})
        logits = join_levels(objectness.values(), 1)[..., 0]
        return {"objectness": logits, "proposal_deltas": join_levels(deltas.values(), 4)}

    def _region_outputs(self, maps: Mapping[str, Array], boxes: Array) -> dict[str, Array]:
        """Return the outputs of all heads of the second stage, for the first of the boxes where a head sees fewer."""
        return self.box_outputs(maps, boxes)

    def _regions(self, maps: Mapping[str, Array], boxes: Array, size: int) -> Float[Array, "b n {size} {size} c"]:
        """Return the features of boxes, from the levels of which the backbone has maps."""
        if not isinstance(maps, Mapping):
            raise TypeError(f"maps must be what features() gave, by their names, got {type(maps).__name__}")
        return roi_align(
            [maps[f"p{level}"] for level in self.fpn.given],
            boxes,
            output_size=size,
            strides=[2**level for level in self.fpn.given],
            sampling_ratio=self.options.sampling_ratio,
            aligned=self.options.aligned,
        )


def rcnn_family(prefix: str, network: Any, options: type, flavors: Mapping[str, Flavor]) -> Family:
    """Return the family of R-CNNs whose names begin with a prefix."""
    return Family(
        prefix=prefix,
        task="detection",
        network=network,
        options=options,
        flavors=flavors,
        strides=(4, 8, 16, 32),
        hidden=frozenset({"dropout_rate"}),
        image_size=(800, 1344),
        of_pyramids={"frozen_stages": 0},
    )


register_family(rcnn_family("faster_rcnn_", FasterRCNN, RCNNOptions, FLAVORS))
