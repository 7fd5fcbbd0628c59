"""Mask R-CNN (He et al., 2017): Faster R-CNN whose second stage draws a mask too."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.mask_head import MaskHead
from aa_flax.models.detections import Detections
from aa_flax.models.faster_rcnn import FasterRCNN, rcnn_family
from aa_flax.models.rcnn_options import MASK_FLAVORS, MaskRCNNOptions
from aa_flax.models.registry import register_family


class MaskRCNN(FasterRCNN):
    """A detector of boxes and masks: `FasterRCNN` with a head that gives each region a mask for every class.

    In detection the boxes come first; then the mask head looks at them, and each detection has the mask of its class.
    """

    def __init__(
        self,
        options: MaskRCNNOptions,
        backbone: Any,
        *,
        num_classes: int = 91,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        super().__init__(options, backbone, num_classes=num_classes, **arrays)
        self.mask_head = MaskHead(
            options.fpn_width,
            num_classes,
            depth=options.mask_head_depth,
            width=options.mask_head_width,
            init=options.head_init,
            **arrays,
        )
        self.eval()

    def mask_outputs(
        self, maps: Mapping[str, Float[Array, "b _h _w _c"]], boxes: Float[Array, "b n 4"]
    ) -> Float[Array, "b n m m columns"]:
        """Return the logits of every class's mask of regions, m = 2 · `mask_region_size`, in at least float32.

        Args:
            maps: of `features`.
            boxes: x1, y1, x2, y2 in pixels of the canvas; no gradient flows into them.
        """
        return self.mask_head(self._regions(maps, boxes, self.options.mask_region_size))

    def masks(self, maps: Mapping[str, Array], found: Detections) -> Float[Array, "b k m m"]:
        """Return the mask of each detection, probabilities within its box; 0 where a place holds none.

        Cell (i, j) is the part of the box from i / m to (i + 1) / m of its height, j of its width.
        """
        logits = self.mask_outputs(maps, found.boxes)
        column = jnp.maximum(found.classes, 0)[:, :, None, None, None]
        of_class = jnp.take_along_axis(logits, column, -1)[..., 0]
        return jnp.where(found.valid[:, :, None, None], jax.nn.sigmoid(of_class), 0)

    def _region_outputs(self, maps: Mapping[str, Array], boxes: Array) -> dict[str, Array]:
        outputs = super()._region_outputs(maps, boxes)
        return {**outputs, "masks": self.mask_outputs(maps, boxes[:, : self.options.max_detections])}


register_family(rcnn_family("mask_rcnn_", MaskRCNN, MaskRCNNOptions, MASK_FLAVORS))
