"""RetinaNet with ResNet-101 on COCO: Bello et al. (2019), Table 5.

    python -m aa_flax.train --config=experiments/coco/retinanet_resnet101.py --workdir=runs/retinanet_resnet101

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 8 photographs each; it computes the same on any number of devices that divides 64, if they hold them.

Two scales and three shapes of anchors at each place, which the printed parameters and GFLOPs ask for (today's code has
three scales); batch norm in pyramid and heads.

The paper: 38.5 AP, 56.4 AP50, 41.2 AP75, 52.4 M parameters, 243 GFLOPs; 150 epochs from scratch, without weights of
ImageNet; for the rest it refers to the papers of RetinaNet and DropBlock, see `coco_retinanet` in
`aa_flax/config/detection_recipes.py`.

Not said: which photographs of COCO (train2017 and val2017 here), learning rate and batch (0.08 and 64, the code's), the
range of scales (0.8 to 1.2), the focal loss's gamma (1.5), whether the first convolution learns (yes).

Ours: not run yet. 52.413 M parameters, 242.9 GFLOPs, the printed figures.
"""

from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, ResNet-101"
    config.model.name = "retinanet_resnet101"
    return config
