"""CBAM-ResNet-50 on ImageNet: Bello et al. (2019), Table 2 (fourth row).

    python -m aa_flax.train --config=experiments/imagenet/cbam_resnet50.py --workdir=runs/cbam_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

Channel attention from mean and maximum, then spatial attention by a 7×7, at the end of every residual branch; reduced
by 16.

The paper: 28.1 M parameters, 77.4 % top-1, and the same once its width is scaled down to 25.6 M; 56 % slower than
ResNet-50 at inference and 132 % in training, on one V100 in TensorFlow, batch 128; no GFLOPs, no top-5; 100 epochs of
SGD with momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30,
60, 80 and 90, weight decay 1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how the width was scaled for the second figure, the scale that the spatial part's batch norm
starts from (0, as in CBAM's code).

Ours: not run yet. 28.090 M parameters, the printed figure; no latencies.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "CBAM-ResNet-50"
    config.model.name = "cbam_resnet50"
    return config
