"""AA-ResNet-34 on ImageNet: Bello et al. (2019), Table 3 and Table 7 (relative).

    python -m aa_flax.train --config=experiments/imagenet/aa_resnet34.py --workdir=runs/aa_resnet34

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The first 3×3 of every block in the last three stages attends, with kappa = upsilon = 0.25: of all the ResNets of Table
3 only this one has these ratios. Eight heads; the 28×28 stage attends at 14×14.

The paper: 20.7 M parameters, 7.1 GFLOPs, 74.7 % top-1, 92.0 % top-5 in both tables; 100 epochs of SGD with momentum 0.9
on 8 V100 GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight
decay 1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride), padding of that
pooling (not counted), which of the two 3×3 attends (the first: the second gives 20.54 M).

Ours: not run yet. 20.745 M parameters, the printed figure. Without the relative tables:
`experiments/ablations/position_none_resnet34.py`.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-34"
    config.model.name = "aa_resnet34"
    return config
