"""MnasNet-1.4 on ImageNet: Bello et al. (2019), Table 4 (width 1.4).

    python -m aa_flax.train --config=experiments/imagenet/mnasnet_140.py --workdir=runs/mnasnet_140

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The widest MnasNet-A1 of the table.

The paper: 6.10 M parameters, 1.17 GFLOPs, 77.2 % top-1, 93.5 % top-5; 350 epochs of RMSProp with exponential decay.
From the code of MnasNet, which it refers to: batch 1024, learning rate 0.016 per 256 images, ×0.97 every 2.4 epochs, 5
epochs of warm-up, decay and momentum 0.9, epsilon 1e-3, weight decay 1e-5, label smoothing 0.1, dropout 0.2, averages
of decay 0.9999.

Not said: the augmentation (resized crops and flips here, as in that code), whether all of that code's settings were
kept; whether the stem grows with the width (it does here: a fixed one misses two other rows).

Ours: not run yet. 6.106 M parameters, which rounds to 6.11 where the paper has 6.10.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_mnasnet(augmented=False)
    config.label = "MnasNet-1.4"
    config.model.name = "mnasnet_140"
    return config
