"""MnasNet-1.0 on ImageNet: Bello et al. (2019), Table 4 (width 1.0).

    python -m aa_flax.train --config=experiments/imagenet/mnasnet_100.py --workdir=runs/mnasnet_100

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

MnasNet-A1 as published, with squeeze-and-excitation in three of its groups.

The paper: 3.89 M parameters, 0.63 GFLOPs, 75.2 % top-1, 92.4 % top-5; 350 epochs of RMSProp with exponential decay.
From the code of MnasNet, which it refers to: batch 1024, learning rate 0.016 per 256 images, ×0.97 every 2.4 epochs, 5
epochs of warm-up, decay and momentum 0.9, epsilon 1e-3, weight decay 1e-5, label smoothing 0.1, dropout 0.2, averages
of decay 0.9999.

Not said: the augmentation (resized crops and flips here, as in that code), whether all of that code's settings were
kept. The MnasNet code's own README has 75.2 % and 92.5 %.

Ours: not run yet. 3.887 M parameters, the printed figure; 0.623 GFLOPs where the paper has 0.63.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_mnasnet(augmented=False)
    config.label = "MnasNet-1.0"
    config.model.name = "mnasnet_100"
    return config
