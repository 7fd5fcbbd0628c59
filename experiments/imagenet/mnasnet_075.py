"""MnasNet-0.75 on ImageNet: Bello et al. (2019), Table 4 (width 0.75).

    python -m aa_flax.train --config=experiments/imagenet/mnasnet_075.py --workdir=runs/mnasnet_075

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

MnasNet-A1 at three quarters of its width: 24 channels leave the stem, the head keeps its 1280.

The paper: 2.91 M parameters, 0.45 GFLOPs, 73.3 % top-1, 91.3 % top-5; 350 epochs of RMSProp with exponential decay.
From the code of MnasNet, which it refers to: batch 1024, learning rate 0.016 per 256 images, ×0.97 every 2.4 epochs, 5
epochs of warm-up, decay and momentum 0.9, epsilon 1e-3, weight decay 1e-5, label smoothing 0.1, dropout 0.2, averages
of decay 0.9999.

Not said: the augmentation (resized crops and flips here, as in that code), whether all of that code's settings were
kept.

Ours: not run yet. 2.912 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_mnasnet(augmented=False)
    config.label = "MnasNet-0.75"
    config.model.name = "mnasnet_075"
    return config
