"""Fully attentional ResNet-50 on ImageNet: Bello et al. (2019), Table 6 (last row) and Figure 4.

    python -m aa_flax.train --config=experiments/ablations/attention_ratio_100.py --workdir=runs/attention_ratio_100

ImageNet is prepared once by `tfds build imagenet2012 --file_format=array_record`, from its two tar files in TFDS's
folder for manual downloads.

Attention instead of every 3×3 convolution of the last three stages (kappa = upsilon = 1); the stem and the first stage
have the four that are left.

The paper: 19.4 M parameters, 6.3 GFLOPs, 73.9 % top-1, 91.5 % top-5; 100 epochs of SGD with momentum 0.9 on 8 V100
GPUs, learning rate 0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay
1e-4, standard Inception augmentation.

Figure 4 at 100 %: 73.9 % top-1 with relative position, 71.1 % without, which
`--config=experiments/ablations/attention_ratio_100.py:none` trains.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), what takes the stride where no convolution is left (the pooling of the attention's input).

Ours: not run yet. 19.384 M parameters, the printed figure; 19.364 M without position.
"""

from aa_flax.config import recipes


def get_config(position="relative"):
    if position not in ("relative", "none"):
        raise ValueError(f"attention_ratio_100.py knows relative and none, not {position!r}")
    config = recipes.imagenet_resnet()
    config.label = "Fully attentional ResNet-50" + ("" if position == "relative" else ", no position")
    config.model.name = "fully_attentional_resnet50"
    config.model.options = dict(position=position)
    return config
