"""RetinaNet (Lin et al., 2017b) around any backbone, as in Tables 5 and 8 of Bello et al. (2019)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.fpn import FPN
from aa_flax.layers.mode import WithMode
from aa_flax.layers.norm import batch_norm
from aa_flax.layers.pyramid_head import PyramidHead
from aa_flax.layers.running_count import RunningCount
from aa_flax.models.backbones import norms_of_its_own, stages_by_level
from aa_flax.models.detections import Detections, detections
from aa_flax.models.entries import Family
from aa_flax.models.registry import register_family
from aa_flax.models.retinanet_options import FLAVORS, RetinaNetOptions
from aa_flax.models.stages import FeatureInfo, require_images


class RetinaNet(WithMode):
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
        if num_classes < 1:
            raise ValueError(f"num_classes of a detector must be at least 1, got {num_classes}")
        self.options, self.num_classes = options, num_classes
        self.image_size, self.in_channels = backbone.image_size, backbone.in_channels
        if hasattr(backbone, "remove_head"):
            backbone.remove_head()
        if options.frozen_stem and not hasattr(backbone, "stem"):
            raise ValueError(f"frozen_stem=True needs a backbone with a stem, and {type(backbone).__name__} has none")
        self.backbone = backbone
        self._stages = stages_by_level(backbone, options.min_level, options.max_level)
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        momentum, epsilon = options.batch_norm_momentum, options.batch_norm_epsilon
        for _, own in norms_of_its_own(backbone):
            own.momentum, own.epsilon, own.frozen = momentum, epsilon, options.frozen_norms
        norm = functools.partial(batch_norm, momentum=momentum, epsilon=epsilon)
        self.fpn = FPN(
            {level: backbone.feature_info[stage].channels for level, stage in self._stages},
            width=options.fpn_width,
            max_level=options.max_level,
            extra_from=options.extra_levels_from,
            padding=options.padding,
            norm=norm if options.fpn_norm else None,
            **arrays,
        )
        head: Any = functools.partial(
            PyramidHead,
            options.fpn_width,
            levels=self.fpn.levels,
            depth=options.head_depth,
            width=options.head_width,
            norm=norm if options.head_norm else None,
            **arrays,
        )
        self.anchors_per_place = options.anchors().per_place
        self.class_head = head(self.anchors_per_place * num_classes, prior=options.prior)
        self.box_head = head(self.anchors_per_place * 4)
        self.loss_normalizer = RunningCount() if options.normalizer == "running" else None
        self.eval()  # the first mode of all modules inside

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return {f"p{level}": FeatureInfo(self.fpn.width, 2**level) for level in self.fpn.levels}

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Return the dotted paths of the modules whose parameters are to stay as they are in training.

        These are the backbone's own batch norms with `frozen_norms`, and its stem with `frozen_stem`. In training they
        are to get no gradient and no weight decay.
        """
        stem = ("backbone.stem",) if self.options.frozen_stem else ()
        norms = (f"backbone.{path}" for path, norm in norms_of_its_own(self.backbone) if norm.frozen)
        return (*stem, *norms)

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
            "classes": self._joined(self.class_head(maps, train=train), self.num_classes),
            "boxes": self._joined(self.box_head(maps, train=train), 4),
        }

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the maps "p3", "p4" ... of the pyramid; `backbone.features` are those of the backbone."""
        return {f"p{level}": x for level, x in self._pyramid(images, train=train, rngs=rngs).items()}

    def anchors(self, height: int, width: int) -> Float[np.ndarray, "anchors 4"]:
        """Return the anchors of images of that size in pixels, in the order level, row, column, anchor of the place."""
        return self.options.anchor_boxes(height, width)

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
        given: dict[str, Any] = dict(
            score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
        )
        options = dataclasses.replace(self.options, **{k: v for k, v in given.items() if v is not None})
        anchors = self.anchors(height, width)
        batch, found = outputs["classes"].shape[:2]
        if found != len(anchors):
            raise ValueError(f"outputs are of {found} anchors, and images of {height}×{width} have {len(anchors)}")
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.asarray([height, width], jnp.float32), (batch, 2))
        sizes = jnp.asarray(sizes, jnp.float32)
        if sizes.shape != (batch, 2):
            raise ValueError(f"sizes must be height and width of each of {batch} images, got shape {sizes.shape}")
        level_anchors = self.options.level_anchors(height, width)
        return detections(outputs, anchors, options, level_anchors=level_anchors, sizes=sizes)

    def _pyramid(self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None) -> dict[int, Array]:
        require_images(images, self.in_channels)
        maps = self.backbone.features(images, train=train, rngs=rngs)
        return self.fpn({level: maps[stage] for level, stage in self._stages}, train=train)

    @staticmethod
    def _joined(maps: Mapping[int, Array], last: int) -> Array:
        """Return the numbers of all levels as [b, anchors, last]."""
        parts = []
        for x in maps.values():
            batch, height, width, channels = x.shape
            parts.append(x.reshape(batch, height * width * (channels // last), last))
        return jnp.concatenate(parts, 1)


register_family(
    Family(
        prefix="retinanet_",
        task="detection",
        network=RetinaNet,
        options=RetinaNetOptions,
        flavors=FLAVORS,
        strides=(8, 16, 32),
        hidden=frozenset({"norm", "dropout_rate"}),
        image_size=(640, 640),
    )
)
