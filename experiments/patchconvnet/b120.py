"""PatchConvNet-B120 on ImageNet: Touvron et al. (2021), as the README of the authors' repository lists it.

    python -m aa_flax.train --config=experiments/patchconvnet/b120.py --workdir=runs/patchconvnet/b120

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

768 channels, 120 blocks, one token; layer scales start at 1e-6.

The authors: 188.6 M parameters, 29.9 G multiply-adds at 224, 84.1 % top-1; no top-5. LAMB, learning rate 3e-3, batch
2048 (deit, issue 185). Commonly stated, not confirmed: 400 epochs, binary cross-entropy.

Not said: augmentation, mixing, weight decay, warm-up and evaluation crop (DeiT's defaults, see
`recipes.imagenet_patchconvnet`), the rate of stochastic depth (none; `--config.model.options.drop_path_rate=0.1`).

Ours: not run yet. 188.611 M parameters, 29.77 G multiply-adds, which the README prints as 29.9 here and as 29.8 beside
ImageNet-21k."""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_patchconvnet()
    config.label = "PatchConvNet-B120"
    config.model.name = "patchconvnet_b120"
    return config
