"""SE-ResNet-152 on ImageNet: Bello et al. (2019), Table 3.

    python -m aa_flax.train --config=experiments/imagenet/se_resnet152.py --workdir=runs/se_resnet152

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

Squeeze-and-excitation at the end of every residual branch, reduced by 16. The largest network of the table.

The paper: 66.8 M parameters, 23.1 GFLOPs, 78.9 % top-1, 94.5 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the biases of squeeze-and-excitation (there are some here: the printed counts need them), the
evaluation crop.

Ours: not run yet. 66.822 M parameters, the printed figure; 23.04 GFLOPs where the paper has 23.1.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "SE-ResNet-152"
    config.model.name = "se_resnet152"
    return config
