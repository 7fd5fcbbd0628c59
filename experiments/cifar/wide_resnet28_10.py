"""WRN-28-10 on CIFAR-100: Bello et al. (2019), Table 1 (first row).

    python -m aa_flax.train --config=experiments/cifar/wide_resnet28_10.py --workdir=runs/wide_resnet28_10 \
        --config.data.source_dir=FOLDER

FOLDER holds the official files of CIFAR-100, binary or Python version; it is needed once.

The baseline of the table, without attention.

The paper: 36.3 M parameters, 10.4 GFLOPs, 80.3 % top-1, 95.0 % top-5; 500 epochs of SGD with momentum 0.9 on 8 V100
GPUs, batch 1024, learning rate from 0 to 0.8 (0.2 per 256 images) over the first 5 % of the run, then cosine; weight
decay 2e-4; mean normalisation, flip and crop.

Not said: the shortcuts where the width changes (without parameters here, which alone gives 36.3 M), dropout between the
convolutions (none), the padding before the crop (4 pixels), what the normalisation divides by, the end of the cosine
(0).

Ours: not run yet. 36.278 M parameters, the printed figure.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.cifar(augmented=False)
    config.label = "WRN-28-10"
    config.model.name = "wide_resnet28_10"
    return config
