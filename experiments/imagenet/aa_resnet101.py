"""AA-ResNet-101 on ImageNet: Bello et al. (2019), Table 3.

    python -m aa_flax.train --config=experiments/imagenet/aa_resnet101.py --workdir=runs/aa_resnet101

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

Attention in 30 of its 33 bottlenecks, 23 of them in the 14×14 stage, with kappa = 0.2 and upsilon = 0.1. Eight heads;
the 28×28 stage attends at 14×14.

The paper: 45.4 M parameters, 16.1 GFLOPs, 78.7 % top-1, 94.4 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride), padding of that
pooling (not counted).

Ours: not run yet. 45.387 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-101"
    config.model.name = "aa_resnet101"
    return config
