"""AA-ResNet-50 with ratios of 0.75 on ImageNet: Bello et al. (2019), Table 6 (third row) and Figure 4.

    python -m aa_flax.train --config=experiments/ablations/attention_ratio_75.py --workdir=runs/attention_ratio_75

ImageNet is prepared once by `tfds build imagenet2012 --file_format=array_record`, from its two tar files in TFDS's
folder for manual downloads.

Three quarters of the channels of the 3×3 convolutions in the last three stages attend (kappa = upsilon = 0.75).

The paper: 20.7 M parameters, 6.8 GFLOPs, 76.7 % top-1, 93.2 % top-5, above plain ResNet-50 with a fifth fewer
parameters; 100 epochs of SGD with momentum 0.9 on 8 V100 GPUs, learning rate 0.128 per 256 images after a linear
warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay 1e-4, standard Inception augmentation.

Figure 4 at 75 %: 76.7 % top-1 with relative position, 75.4 % without, which
`--config=experiments/ablations/attention_ratio_75.py:none` trains.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride).

Ours: not run yet. 20.735 M parameters, the printed figure; 20.720 M without position.
"""

from aa_flax.config import recipes


def get_config(position="relative"):
    if position not in ("relative", "none"):
        raise ValueError(f"attention_ratio_75.py knows relative and none, not {position!r}")
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-50 with ratios of 0.75" + ("" if position == "relative" else ", no position")
    config.model.name = "aa_resnet50"
    config.model.options = dict(kappa=0.75, upsilon=0.75, position=position)
    return config
