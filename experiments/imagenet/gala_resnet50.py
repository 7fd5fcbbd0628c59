"""GALA-ResNet-50 on ImageNet: Bello et al. (2019), Table 2 (fifth row).

    python -m aa_flax.train --config=experiments/imagenet/gala_resnet50.py --workdir=runs/gala_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

Global and local attention combined by a learned sum and product, at the end of every residual branch; reduced by 16.

The paper: 29.4 M parameters, 77.5 % top-1, 77.3 % once its width is scaled down to 25.6 M; 86 % slower than ResNet-50
at inference and 133 % in training, on one V100 in TensorFlow, batch 128; no GFLOPs, no top-5; 100 epochs of SGD with
momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80
and 90, weight decay 1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), whether GALA follows its paper, with tanh and without a further 5×5 as here, or its code: only the
former has 29.4 M parameters.

Ours: not run yet. 29.361 M parameters, the printed figure; no latencies.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "GALA-ResNet-50"
    config.model.name = "gala_resnet50"
    return config
