"""AW-ResNet-50 on ImageNet: Zhu et al. (2021), AW-convolution, a reconstruction.

    python -m aa_flax.train --config=experiments/aw/aw_resnet50.py --workdir=runs/aw_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.
`--config=experiments/aw/aw_resnet50.py:plain` trains ResNet-50 by the same recipe.

The 3×3 of every bottleneck is gated, with `expand` and a reduction of 16. The paper's text was not available: the layer
is rebuilt from its abstract and summaries by others (`aa_flax.layers.AWConv2D` says which parts).

The paper: nothing is known of this network; accuracy, parameters, FLOPs and training recipe were not found.

Not known: the recipe. Here it is that of BAM's and CBAM's code, `recipes.imagenet_aw`: 100 epochs of SGD with momentum
0.9, batch 256, learning rate 0.1, ÷10 every 30 epochs, weight decay 1e-4, crops and flips.

Ours: not run yet. 25.718 M parameters, 161,432 more than ResNet-50; 8.19 GFLOPs."""

from aa_flax.config import recipes


def get_config(convolution="aw"):
    if convolution not in ("aw", "plain"):
        raise ValueError(f"aw_resnet50.py knows aw and plain, not {convolution!r}")
    config = recipes.imagenet_aw()
    config.label = "AW-ResNet-50" if convolution == "aw" else "ResNet-50"
    config.model.name = "aw_resnet50" if convolution == "aw" else "resnet50"
    return config
