"""Training and reading a two-stage detector that draws masks: Mask R-CNN."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.models.rcnn_options import MaskRCNNOptions
from aa_flax.tasks.mask_losses import mask_losses, mask_targets
from aa_flax.tasks.region_losses import SampledRegions
from aa_flax.tasks.two_stage import TwoStage


class Masked(TwoStage):
    """The kind of detector that proposes regions, classifies them and draws a mask in each.

    The loss of masks is the mean over the regions with an object of a micro-batch; how many there are the network
    decides. Held-out losses are without it, because held-out masks are drawn in the boxes found alone, which no object
    stands behind; masks are scored instead.
    """

    masks = True
    more_names = ("mask_loss",)

    def more_losses(
        self, model: Any, maps: dict[str, Array], regions: SampledRegions, targets: dict[str, Array]
    ) -> dict[str, Float[Array, " b"]]:
        """Return each image's share of the loss of masks, whose mean over the images is that loss."""
        network = self._network
        assert isinstance(network, MaskRCNNOptions)  # the table of kinds says so
        most = int(network.box_samples * network.box_positive_fraction)
        matches, boxes = regions.matches[:, :most], regions.boxes[:, :most]
        logits = model.mask_outputs(maps, boxes)
        wanted = mask_targets(
            targets["masks"],
            targets["boxes"],
            boxes,
            matches,
            side=logits.shape[2],
            hard=network.mask_targets == "hard",
            aligned=network.aligned,
        )
        positive = matches >= 0
        columns = jnp.take_along_axis(targets["columns"], jnp.maximum(matches, 0), 1)
        losses = mask_losses(logits, wanted, columns, positive)
        return {"mask_loss": losses * (len(losses) / jnp.maximum(positive.sum(dtype=losses.dtype), 1))}
