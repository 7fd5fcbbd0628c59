"""PatchConvNet-B60 on ImageNet: Touvron et al. (2021), as the README of the authors' repository lists it.

    python -m aa_flax.train --config=experiments/patchconvnet/b60.py --workdir=runs/patchconvnet/b60

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

768 channels, 60 blocks, one token; layer scales start at 1e-6.

The authors: 99.4 M parameters, 15.8 G multiply-adds at 224, 83.5 % top-1; no top-5. LAMB, learning rate 3e-3, batch
2048 (deit, issue 185). Commonly stated, not confirmed: 400 epochs, binary cross-entropy.

Not said: augmentation, mixing, weight decay, warm-up and evaluation crop (DeiT's defaults, see
`recipes.imagenet_patchconvnet`), the rate of stochastic depth (none; `--config.model.options.drop_path_rate=0.1`).

Ours: not run yet. 99.389 M parameters, 15.80 G multiply-adds, the printed figures."""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_patchconvnet()
    config.label = "PatchConvNet-B60"
    config.model.name = "patchconvnet_b60"
    return config
