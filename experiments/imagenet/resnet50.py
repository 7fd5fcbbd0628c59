"""ResNet-50 on ImageNet: Bello et al. (2019), Table 2 (first row), Table 3 and Figure 4 (0 %).

    python -m aa_flax.train --config=experiments/imagenet/resnet50.py --workdir=runs/resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The baseline that the latencies of Table 2 are relative to; the stride sits in the 3×3 (version 1.5), which the GFLOPs
need.

The paper: 25.6 M parameters, 8.2 GFLOPs, 76.4 % top-1, 93.1 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the evaluation crop (the centred 224 / 256), zeros in the last batch norm of each block (ones).

Ours: not run yet. 25.557 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "ResNet-50"
    config.model.name = "resnet50"
    return config
