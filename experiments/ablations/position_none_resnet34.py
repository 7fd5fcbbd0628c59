"""AA-ResNet-34 without position on ImageNet: Bello et al. (2019), Table 7 (none).

    python -m aa_flax.train --config=experiments/ablations/position_none_resnet34.py \
        --workdir=runs/position_none_resnet34

ImageNet is prepared once by `tfds build imagenet2012 --file_format=array_record`, from its two tar files in TFDS's
folder for manual downloads.

Attention without position terms: only the convolutions beside it depend on positions. The network is otherwise that of
`experiments/imagenet/aa_resnet34.py`, which is the row with relative position (74.7 % and 92.0 %).

The paper: 74.4 % top-1, 91.9 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per 256
images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay 1e-4, standard Inception augmentation.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride).

Ours: not run yet. 20.733 M parameters; the table prints none.
"""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-34, no position"
    config.model.name = "aa_resnet34"
    config.model.options = dict(position="none")
    return config
