"""AA-WRN-28-10 on CIFAR-100: Bello et al. (2019), Table 1 (last row).

    python -m aa_flax.train --config=experiments/cifar/aa_wide_resnet28_10.py --workdir=runs/aa_wide_resnet28_10 \
        --config.data.source_dir=FOLDER

FOLDER holds the official files of CIFAR-100, binary or Python version; it is needed once.

The first convolution of every block attends, at 32×32, 16×16 and 8×8: eight heads, kappa = 0.2, upsilon = 0.1, keys of
at least 20 dimensions a head, nothing downsampled.

The paper: 36.2 M parameters, 10.9 GFLOPs, 81.6 % top-1, 95.2 % top-5; 500 epochs of SGD with momentum 0.9 on 8 V100
GPUs, batch 256, learning rate from 0 to 0.2 over the first 5 % of the run, then cosine; weight decay 5e-4; mean
normalisation, flip and crop.

Not said: how attention meets a strided convolution (its input is pooled by the stride), the initial tables and
projections, how wide the crop's padding is (4, as everywhere, here), what the cosine ends at (0 here), whether weight
decay spares anything (biases, batch norm and tables here).

Ours: not run yet. 36.054 M parameters: the paper's own rules give that, and nothing in it leads to 36.2 M.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.cifar(augmented=True)
    config.label = "AA-WRN-28-10"
    config.model.name = "aa_wide_resnet28_10"
    return config
