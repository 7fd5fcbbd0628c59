"""AA-MnasNet-1.0 on ImageNet: Bello et al. (2019), Table 4 (width 1.0).

    python -m aa_flax.train --config=experiments/imagenet/aa_mnasnet_100.py --workdir=runs/aa_mnasnet_100

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The expansions of the last 13 blocks attend, from 28×28 on: four heads, kappa = 0.1, upsilon = 0.05, the first of these
stages downsampled.

The paper: 4.06 M parameters, 0.70 GFLOPs, 75.7 % top-1, 92.6 % top-5; 350 epochs of RMSProp with exponential decay,
from half of the baseline's learning rate to the same final one: 0.032 at batch 1024 and ×0.9746 every 2.4 epochs here,
where the baseline has 0.064 and ×0.97. The rest is from the code of MnasNet: 5 epochs of warm-up, decay and momentum
0.9, epsilon 1e-3, weight decay 1e-5, label smoothing 0.1, dropout 0.2, averages of decay 0.9999.

Not said: the augmentation (resized crops and flips here, as in that code), whether all of that code's settings were
kept, how the factor was adjusted (to end after as many drops at the same rate), what the expansion at 56×56 that opens
the first augmented stage attends to (28×28, downsampled).

Ours: not run yet. 4.061 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_mnasnet(augmented=True)
    config.label = "AA-MnasNet-1.0"
    config.model.name = "aa_mnasnet_100"
    return config
