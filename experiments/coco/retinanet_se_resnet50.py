"""RetinaNet with SE-ResNet-50 on COCO: Bello et al. (2019), Table 5.

    python -m aa_flax.train --config=experiments/coco/retinanet_se_resnet50.py --workdir=runs/retinanet_se_resnet50

COCO comes once from the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`. The recipe is for 8 chips or cards
with 8 photographs each; it computes the same on any number of devices that divides 64, if they hold them.

Squeeze-and-excitation at the end of every residual branch of the backbone, reduced by 16 and without biases, which the
printed parameters ask for (with biases 35.951 M).

The paper: 36.5 AP, 54.0 AP50, 39.1 AP75, 35.9 M parameters, 183 GFLOPs; 150 epochs from scratch, without weights of
ImageNet; for the rest it refers to the papers of RetinaNet and DropBlock, see `coco_retinanet` in
`aa_flax/config/detection_recipes.py`.

Not said: which of the reductions 4, 8 and 16 that were tried was best (16 fits the parameters), which photographs of
COCO (train2017 and val2017 here), learning rate and batch (0.08 and 64, the code's), the range of scales (0.8 to 1.2),
the focal loss's gamma (1.5), whether the first convolution learns (yes).

Ours: not run yet. 35.935 M parameters, the printed figure; 182.3 GFLOPs, which is 182 and not 183.
"""

from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, SE-ResNet-50"
    config.model.name = "retinanet_se_resnet50"
    config.model.options.squeeze_excite_bias = False
    return config
