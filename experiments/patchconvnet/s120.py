"""PatchConvNet-S120 on ImageNet: Touvron et al. (2021), as the README of the authors' repository lists it.

    python -m aa_flax.train --config=experiments/patchconvnet/s120.py --workdir=runs/patchconvnet/s120

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

384 channels, 120 blocks, one token; layer scales start at 1e-6.

The authors: 47.7 M parameters, 7.5 G multiply-adds at 224, 83.2 % top-1; no top-5. LAMB, learning rate 3e-3, batch 2048
(deit, issue 185). Commonly stated, not confirmed: 400 epochs, binary cross-entropy.

Not said: augmentation, mixing, weight decay, warm-up and evaluation crop (DeiT's defaults, see
`recipes.imagenet_patchconvnet`), the rate of stochastic depth (none; `--config.model.options.drop_path_rate=0.1`).

Ours: not run yet. 47.724 M parameters, 7.49 G multiply-adds, the printed figures."""

from aa_flax.config import recipes


def get_config():
    config = recipes.imagenet_patchconvnet()
    config.label = "PatchConvNet-S120"
    config.model.name = "patchconvnet_s120"
    return config
