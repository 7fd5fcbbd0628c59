"""ResNet-34 on ImageNet: Bello et al. (2019), Table 3.

    python -m aa_flax.train --config=experiments/imagenet/resnet34.py --workdir=runs/resnet34

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The baseline with basic blocks, no attention.

The paper: 21.8 M parameters, 7.4 GFLOPs, 73.6 % top-1, 91.5 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the evaluation crop (the centred 224 / 256).

Ours: not run yet. 21.798 M parameters, the printed figure; 7.33 GFLOPs where the paper has 7.4.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "ResNet-34"
    config.model.name = "resnet34"
    return config
