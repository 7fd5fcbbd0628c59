"""BAM-ResNet-50 on ImageNet: Bello et al. (2019), Table 2 (third row).

    python -m aa_flax.train --config=experiments/imagenet/bam_resnet50.py --workdir=runs/bam_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

A bottleneck attention module after each of the first three stages: a channel map and a spatial map, dilated by 4,
reduced by 16.

The paper: 25.9 M parameters, 77.3 % top-1; 19 % slower than ResNet-50 at inference and 43 % in training, on one V100 in
TensorFlow, batch 128; no GFLOPs, no top-5; 100 epochs of SGD with momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per
256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay 1e-4, standard Inception
augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), whether BAM's two maps are added, as in its paper and here, or multiplied, as in its code (the
option `combine`).

Ours: not run yet. 25.915 M parameters, the printed figure; no latencies.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "BAM-ResNet-50"
    config.model.name = "bam_resnet50"
    return config
