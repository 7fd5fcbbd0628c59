"""RetinaNet with AA-ResNet-50, CoordConv on COCO: Bello et al. (2019), Table 8 (CoordConv).

    python -m aa_flax.train --config=experiments/coco/position_coordconv.py --workdir=runs/position_coordconv

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 8 photographs each; it computes the same on any number of devices that divides 64, if they hold them.

Three channels, x, y and the distance from the centre, are concatenated to the attention's input, instead of relative
tables; otherwise `experiments/coco/retinanet_aa_resnet50.py`, the row with relative position (38.2 AP).

The paper: 37.4 AP, 55.5 AP50, 40.1 AP75; 150 epochs from scratch, without weights of ImageNet; for the rest it refers
to the papers of RetinaNet and DropBlock, see `coco_retinanet` in `aa_flax/config/detection_recipes.py`.

Not said: kappa, upsilon and heads (ImageNet's here), the scale of the coordinates (-1 to 1 here), which photographs of
COCO (train2017 and val2017 here), learning rate and batch (0.08 and 64, the code's), the range of scales (0.8 to 1.2),
the focal loss's gamma (1.5), whether the first convolution learns (yes).

Ours: not run yet. 33.674 M parameters; the table prints none.
"""

from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, AA-ResNet-50, CoordConv"
    config.model.name = "retinanet_aa_resnet50"
    config.model.options.position = "coordconv"
    return config
