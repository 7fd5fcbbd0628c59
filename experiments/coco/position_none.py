"""RetinaNet with AA-ResNet-50, no position on COCO: Bello et al. (2019), Table 8 (none).

    python -m aa_flax.train --config=experiments/coco/position_none.py --workdir=runs/position_none

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 8 photographs each; it computes the same on any number of devices that divides 64, if they hold them.

Attention without relative tables; otherwise `experiments/coco/retinanet_aa_resnet50.py`, the row with relative position
(38.2 AP).

The paper: 37.7 AP, 56.0 AP50, 40.2 AP75; 150 epochs from scratch, without weights of ImageNet; for the rest it refers
to the papers of RetinaNet and DropBlock, see `coco_retinanet` in `aa_flax/config/detection_recipes.py`.

Not said: kappa, upsilon and heads (ImageNet's here), which photographs of COCO (train2017 and val2017 here), learning
rate and batch (0.08 and 64, the code's), the range of scales (0.8 to 1.2), the focal loss's gamma (1.5), whether the
first convolution learns (yes).

Ours: not run yet. 33.660 M parameters; the table prints none.
"""

from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, AA-ResNet-50, no position"
    config.model.name = "retinanet_aa_resnet50"
    config.model.options.position = "none"
    return config
