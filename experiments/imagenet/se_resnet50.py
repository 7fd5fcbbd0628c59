"""SE-ResNet-50 on ImageNet: Bello et al. (2019), Table 2 (second row) and Table 3.

    python -m aa_flax.train --config=experiments/imagenet/se_resnet50.py --workdir=runs/se_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

Squeeze-and-excitation at the end of every residual branch, reduced by 16.

The paper: 28.1 M parameters, 8.2 GFLOPs, 77.5 % top-1, 93.7 % top-5, in Table 2 also 77.0 % top-1 once its width is
scaled down to the 25.6 M of ResNet-50; 12 % slower than ResNet-50 at inference and 92 % in training, on one V100 in
TensorFlow, batch 128; 100 epochs of SGD with momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per 256 images after a
linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay 1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), the biases of squeeze-and-excitation (there are some here: the printed counts need them), the
evaluation crop.

Ours: not run yet. 28.088 M parameters, the printed figure; no latencies.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "SE-ResNet-50"
    config.model.name = "se_resnet50"
    return config
