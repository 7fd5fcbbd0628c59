"""AA-ResNet-50 with ratios of 0.25 on ImageNet: Bello et al. (2019), Table 2 (last row), Table 6 (first) and Figure 4.

    python -m aa_flax.train --config=experiments/ablations/attention_ratio_25.py --workdir=runs/attention_ratio_25

ImageNet is prepared once by `tfds build imagenet2012 --file_format=array_record`, from its two tar files in TFDS's
folder for manual downloads.

A quarter of the channels of the 3×3 convolutions in the last three stages attend (kappa = upsilon = 0.25): eight heads,
the 28×28 stage at 14×14.

The paper: 24.3 M parameters, 7.9 GFLOPs, 77.7 % top-1, 93.8 % top-5; 29 % slower than ResNet-50 at inference and 25 %
in training, on one V100 in TensorFlow, batch 128; 100 epochs of SGD with momentum 0.9 on 8 V100 GPUs, learning rate
0.128 per 256 images after a linear warm-up of 5 epochs, ÷10 at 30, 60, 80 and 90, weight decay 1e-4, standard Inception
augmentation.

Figure 4 at 25 %: 77.7 % top-1 with relative position, 77.5 % without, which
`--config=experiments/ablations/attention_ratio_25.py:none` trains.

Not said: the batch (the largest of 32 to 256 images a worker that fits; 2048 in all here), whether the augmentation
changes colours (no), how attention meets a strided convolution (its input is pooled by the stride).

Ours: not run yet. 24.304 M parameters, the printed figure; 24.291 M without position. No latencies.
"""

from aa_flax.config import recipes


def get_config(position="relative"):
    if position not in ("relative", "none"):
        raise ValueError(f"attention_ratio_25.py knows relative and none, not {position!r}")
    config = recipes.imagenet_resnet()
    config.label = "AA-ResNet-50 with ratios of 0.25" + ("" if position == "relative" else ", no position")
    config.model.name = "aa_resnet50"
    config.model.options = dict(kappa=0.25, upsilon=0.25, position=position)
    return config
