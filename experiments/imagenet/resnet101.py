"""ResNet-101 on ImageNet: Bello et al. (2019), Table 3.

    python -m aa_flax.train --config=experiments/imagenet/resnet101.py --workdir=runs/resnet101

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

A baseline that AA-ResNet-50 comes within 0.2 % of, with little more than half of its parameters.

The paper: 44.5 M parameters, 15.6 GFLOPs, 77.9 % top-1, 94.0 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the evaluation crop, zeros in the last batch norm of each block (ones).

Ours: not run yet. 44.549 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "ResNet-101"
    config.model.name = "resnet101"
    return config
