"""SE-WRN-28-10 on CIFAR-100: Bello et al. (2019), Table 1 (third row).

    python -m aa_flax.train --config=experiments/cifar/se_wide_resnet28_10.py --workdir=runs/se_wide_resnet28_10 \
        --config.data.source_dir=FOLDER

FOLDER holds the official files of CIFAR-100, binary or Python version; it is needed once.

Squeeze-and-excitation at the end of every residual branch, reduced by 16.

The paper: 36.5 M parameters, 10.4 GFLOPs, 81.0 % top-1, 95.3 % top-5 (the best top-5 of the table); 500 epochs of SGD
with momentum 0.9 on 8 V100 GPUs, batch 1024, learning rate from 0 to 0.8 (0.2 per 256 images) over the first 5 % of the
run, then cosine; weight decay 2e-4; mean normalisation, flip and crop.

Not said: the reduction in this network (16, as for ImageNet), biases (none: with them the count rounds to 36.6 M),
whether SE had the baseline's batch and weight decay (it has here), dropout, the padding before the crop, the end of the
cosine.

Ours: not run yet. 36.547 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.cifar(augmented=False)
    config.label = "SE-WRN-28-10"
    config.model.name = "se_wide_resnet28_10"
    return config
