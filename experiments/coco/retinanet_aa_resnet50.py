"""RetinaNet with AA-ResNet-50 on COCO: Bello et al. (2019), Table 5 and Table 8 (relative).

    python -m aa_flax.train --config=experiments/coco/retinanet_aa_resnet50.py --workdir=runs/retinanet_aa_resnet50

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 8 photographs each; it computes the same on any number of devices that divides 64, if they hold them.

The 3×3 of every bottleneck in the backbone's last three stages attends, with ImageNet's settings: kappa = 0.2, upsilon
= 0.1, eight heads of depth 20 or more; the 80×80 stage attends at 40×40. Pyramid and heads are as without attention.

The paper: 38.2 AP, 56.5 AP50, 40.7 AP75, 33.1 M parameters, 182 GFLOPs; 150 epochs from scratch, without weights of
ImageNet; for the rest it refers to the papers of RetinaNet and DropBlock, see `coco_retinanet` in
`aa_flax/config/detection_recipes.py`.

Not said: kappa, upsilon and heads (ImageNet's give more parameters than are printed, and no others were found that give
these), which photographs of COCO (train2017 and val2017 here), learning rate and batch (0.08 and 64, the code's), the
range of scales (0.8 to 1.2), the focal loss's gamma (1.5), whether the first convolution learns (yes).

Ours: not run yet. 33.697 M parameters, 193.1 GFLOPs, 187.1 by the paper's rule; not the printed figures.
"""

from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, AA-ResNet-50"
    config.model.name = "retinanet_aa_resnet50"
    return config
