"""AW-ResNet-101 on ImageNet: Zhu et al. (2021), AW-convolution, a reconstruction.

    python -m aa_flax.train --config=experiments/aw/aw_resnet101.py --workdir=runs/aw_resnet101

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.
`--config=experiments/aw/aw_resnet101.py:plain` trains ResNet-101 by the same recipe.

The 3×3 of every bottleneck is gated, with `expand` and a reduction of 16. The paper's text was not available: the layer
is rebuilt from its abstract and summaries by others (`aa_flax.layers.AWConv2D` says which parts).

The paper: +1.00 % top-1 over ResNet-101 (abstract); accuracy, parameters, FLOPs and training recipe were not found.

Not known: the recipe. Here it is that of BAM's and CBAM's code, `recipes.imagenet_aw`: 100 epochs of SGD with momentum
0.9, batch 256, learning rate 0.1, ÷10 every 30 epochs, weight decay 1e-4, crops and flips.

Ours: not run yet. 44.855 M parameters, 305,592 more than ResNet-101; 15.63 GFLOPs."""

from aa_flax.config import recipes


def get_config(convolution="aw"):
    if convolution not in ("aw", "plain"):
        raise ValueError(f"aw_resnet101.py knows aw and plain, not {convolution!r}")
    config = recipes.imagenet_aw()
    config.label = "AW-ResNet-101" if convolution == "aw" else "ResNet-101"
    config.model.name = "aw_resnet101" if convolution == "aw" else "resnet101"
    return config
