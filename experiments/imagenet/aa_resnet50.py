"""AA-ResNet-50 on ImageNet: Bello et al. (2019), Table 3 and Table 7 (relative).

    python -m aa_flax.train --config=experiments/imagenet/aa_resnet50.py --workdir=runs/aa_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The 3×3 of every bottleneck in the last three stages attends, with kappa = 0.2 and upsilon = 0.1. Eight heads; the 28×28
stage attends at 14×14. The rows of Tables 2 and 6 are another network of the same accuracy,
`experiments/ablations/attention_ratio_25.py`.

The paper: 25.8 M parameters, 8.3 GFLOPs, 77.7 % top-1, 93.8 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride), padding of that
pooling (not counted), which of these two networks Table 7 is about (it prints the figures that both have).

Ours: not run yet. 25.809 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-50"
    config.model.name = "aa_resnet50"
    return config
