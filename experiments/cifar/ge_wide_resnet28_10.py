"""GE-WRN-28-10 on CIFAR-100: Bello et al. (2019), Table 1 (second row).

    python -m aa_flax.train --config=experiments/cifar/ge_wide_resnet28_10.py --workdir=runs/ge_wide_resnet28_10 \
        --config.data.source_dir=FOLDER

FOLDER holds the official files of CIFAR-100, binary or Python version; it is needed once.

Gather-excite in the form without parameters: the mean over the whole map scales each channel through a sigmoid.

The paper: 36.3 M parameters, 10.4 GFLOPs, 79.8 % top-1, 95.0 % top-5, below the baseline; 500 epochs of SGD with
momentum 0.9 on 8 V100 GPUs, batch 1024, learning rate from 0 to 0.8 (0.2 per 256 images) over the first 5 % of the run,
then cosine; weight decay 2e-4; mean normalisation, flip and crop.

Not said: the extent of the gathering (the whole map here), whether SE and GE had the baseline's batch and weight decay
or those of the augmented network (the baseline's here), dropout, the padding before the crop, the end of the cosine.

Ours: not run yet. 36.278 M parameters, as many as without.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.cifar(augmented=False)
    config.label = "GE-WRN-28-10"
    config.model.name = "ge_wide_resnet28_10"
    return config
