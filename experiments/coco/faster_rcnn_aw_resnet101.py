"""Faster R-CNN with AW-ResNet-101-FPN on COCO: Zhu et al. (2021), AW-convolution, a reconstruction.

    python -m aa_flax.train --config=experiments/coco/faster_rcnn_aw_resnet101.py --workdir=runs/faster_rcnn_aw_r101

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 2 photographs each; it computes the same on any number of devices that divides 16, if they hold them.

The backbone's weights are those of `experiments/aw/aw_resnet101.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/aw_resnet101 runs/aw_resnet101.safetensors`.

The 3×3 of every bottleneck of the backbone is gated, with `expand` and a reduction of 16; pyramid and heads are plain.
Otherwise `experiments/coco/faster_rcnn_resnet101.py`, the network without gates. The gates of the first stage stay as
they are, with all of it; the batch norms inside the other gates learn.

The paper: +0.63 AP over Faster R-CNN with ResNet-101-FPN (abstract); on top of earlier attention modules up to +0.45
AP, with `--config.model.name=faster_rcnn_aw_se_resnet101` and the like. Code for its rows on COCO was never published,
and the text was not available.

Not said: everything else. Library, recipe and length are ours, as are the canvases and their five sizes, two samples a
bin of RoIAlign.

Ours: not run yet. 61.051 M parameters, 305,592 more than without gates.
"""

from aa_flax.config import region_recipes


def get_config():
    config = region_recipes.coco_faster_rcnn("runs/aw_resnet101.safetensors")
    config.label = "Faster R-CNN, AW-ResNet-101"
    config.model.name = "faster_rcnn_aw_resnet101"
    return config
