"""MnasNet-1.25 on ImageNet: Bello et al. (2019), Table 4 (width 1.25).

    python -m aa_flax.train --config=experiments/imagenet/mnasnet_125.py --workdir=runs/mnasnet_125

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

MnasNet-A1 a quarter wider, each width rounded to a multiple of 8.

The paper: 5.26 M parameters, 1.01 GFLOPs, 76.7 % top-1, 93.2 % top-5; 350 epochs of RMSProp with exponential decay.
From the code of MnasNet, which it refers to: batch 1024, learning rate 0.016 per 256 images, ×0.97 every 2.4 epochs, 5
epochs of warm-up, decay and momentum 0.9, epsilon 1e-3, weight decay 1e-5, label smoothing 0.1, dropout 0.2, averages
of decay 0.9999.

Not said: the augmentation (resized crops and flips here, as in that code), whether all of that code's settings were
kept.

Ours: not run yet. 5.255 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_mnasnet(augmented=False)
    config.label = "MnasNet-1.25"
    config.model.name = "mnasnet_125"
    return config
