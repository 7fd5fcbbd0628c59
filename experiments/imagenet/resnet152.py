"""ResNet-152 on ImageNet: Bello et al. (2019), Table 3.

    python -m aa_flax.train --config=experiments/imagenet/resnet152.py --workdir=runs/resnet152

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The largest baseline; AA-ResNet-101 passes it.

The paper: 60.2 M parameters, 23.0 GFLOPs, 78.4 % top-1, 94.2 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the evaluation crop, zeros in the last batch norm of each block (ones).

Ours: not run yet. 60.193 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "ResNet-152"
    config.model.name = "resnet152"
    return config
