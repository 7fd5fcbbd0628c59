"""Faster R-CNN with ResNet-101-FPN on COCO, what Zhu et al. (2021) gate: AW-convolution, a reconstruction.

    python -m aa_flax.train --config=experiments/coco/faster_rcnn_resnet101.py --workdir=runs/faster_rcnn_resnet101

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 2 photographs each; it computes the same on any number of devices that divides 16, if they hold them.

The backbone's weights are those of `experiments/imagenet/resnet101.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/resnet101 runs/resnet101.safetensors`. Those of torchvision's ResNets do as well, with
`--config.model.init_from=FILE --config.model.init_source=torchvision`.

Faster R-CNN on a feature pyramid, as detectron2 has it: 12 epochs of momentum SGD ("1x"), see `coco_faster_rcnn` in
`aa_flax/config/region_recipes.py`.

The paper: AW-convolution gains 0.63 AP over this network (abstract); its AP itself was not found. Code for its rows on
COCO was never published, and the text was not available.

Not said: everything else. Library, recipe and length are ours, as are the canvases and their five sizes, two samples a
bin of RoIAlign.

Ours: not run yet. 60.745 M parameters.
"""

from aa_flax.config import region_recipes


def get_config():
    config = region_recipes.coco_faster_rcnn("runs/resnet101.safetensors")
    config.label = "Faster R-CNN, ResNet-101"
    config.model.name = "faster_rcnn_resnet101"
    return config
