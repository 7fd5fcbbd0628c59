"""RetinaNet (Lin et al., 2017b) around any backbone, as in Tables 5 and 8 of Bello et al. (2019)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.pyramid_head import PyramidHead
from aa_flax.layers.running_count import RunningCount
from aa_flax.models.detections import Detections, detections
from aa_flax.models.entries import Family
from aa_flax.models.pyramid_detector import PyramidDetector, sizes_of
from aa_flax.models.registry import register_family
from aa_flax.models.retinanet_options import FLAVORS, RetinaNetOptions
from aa_flax.ops.levels import join_levels


class RetinaNet(PyramidDetector):
    """A one-stage detector: backbone, feature pyramid, and two heads that every level shares.

    Each location of each level has anchors, boxes that the network moves and gives a score for each class. Its options
    say what implementations differ in (`RetinaNetOptions`); with its defaults it is tensorflow/tpu's of early 2018 with
    6 anchors a place, whose parameters and GFLOPs are those that Bello et al. print. It deviates in initial weights of
    the backbone, which are this library's, and in that images of all sizes are accepted: the code wants sides that 128
    divides, where this network is the same. Gates of attention modules keep batch norms of their own.

    Args:
        options: of what stands around the backbone, and of training and detection.
        backbone: a network with `features` and `feature_info`, at stride 2**l for every level l from `min_level` to the
            backbone's coarsest one. Its batch norms get the momentum and epsilon of the options.
        num_classes: columns of the class scores.

    Raises:
        ValueError: options that no such network can have, or maps that the backbone does not give; at call time images
            that do not fit.
    """

    def __init__(
        self,
        options: RetinaNetOptions,
        backbone: Any,
        *,
        num_classes: int = 90,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        super().__init__(options, backbone, num_classes=num_classes, **arrays)
        head: Any = functools.partial(
            PyramidHead,
            options.fpn_width,
            levels=self.fpn.levels,
            depth=options.head_depth,
            width=options.head_width,
            norm=self._norm() if options.head_norm else None,
            **arrays,
        )
        self.anchors_per_place = options.anchors().per_place
        self.class_head = head(self.anchors_per_place * num_classes, prior=options.prior)
        self.box_head = head(self.anchors_per_place * 4)
        self.loss_normalizer = RunningCount() if options.normalizer == "running" else None
        self.eval()  # the first mode of all modules inside

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return {"classes": logits [b, anchors, classes], "boxes": [b, anchors, 4]} of normalised images [b, h, w, c].

        Both are in at least float32, in the order of `anchors`; the numbers of boxes are what `decode_boxes` takes. In
        training, batch statistics are updated in place, and a backbone with drop path needs `rngs`.

        Raises:
            ValueError: images that do not fit, or drop path in training without `rngs`.
        """
        maps = self._pyramid(images, train=train, rngs=rngs)
        return {
            "classes": join_levels(self.class_head(maps, train=train).values(), self.num_classes),
            "boxes": join_levels(self.box_head(maps, train=train).values(), 4),
        }

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
        return self.detections(
            self(images, train=False),
            *images.shape[1:3],
            sizes=sizes,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )

    def detections(
        self,
        outputs: Mapping[str, Array],
        height: int,
        width: int,
        *,
        sizes: Any = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Return the detections by the network's outputs; it reads no parameter.

        Args:
            outputs: what a call returned.
            height, width: of the canvas, in pixels.
            sizes: [b, 2], the height and width of each image on the canvas, to which boxes are clipped where the
                network's options say so; None for the whole canvas.
            score_threshold: scores must exceed it; None is that of the options.
            iou_threshold: of non-maximum suppression; None is that of the options.
            max_detections: places for detections of an image; None is that of the options.

        Raises:
            ValueError: sizes of another shape, outputs of images of another size, or a threshold outside [0, 1].
        """
        options = self._options_with(
            score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
        )
        anchors = self.anchors(height, width)
        batch, found = outputs["classes"].shape[:2]
        if found != len(anchors):
            raise ValueError(f"outputs are of {found} anchors, and images of {height}×{width} have {len(anchors)}")
        sizes = sizes_of(sizes, batch, height, width)
        level_anchors = self.options.level_anchors(height, width)
        return detections(outputs, anchors, options, level_anchors=level_anchors, sizes=sizes)


register_family(
    Family(
        prefix="retinanet_",
        task="detection",
        network=RetinaNet,
        options=RetinaNetOptions,
        flavors=FLAVORS,
        strides=(8, 16, 32),
        hidden=frozenset({"dropout_rate"}),
        image_size=(640, 640),
        of_pyramids={"frozen_stages": 0},
    )
)
