"""PatchConvNet from ImageNet-21k to ImageNet: Touvron et al. (2021), as the README of the authors' repository lists it.

    python -m aa_flax.train --config=experiments/patchconvnet/imagenet21k.py:s60 --workdir=runs/patchconvnet/s60_21k
    python -m aa_flax.checkpoints export runs/patchconvnet/s60_21k.safetensors --workdir=runs/patchconvnet/s60_21k
    python -m aa_flax.train --config=experiments/patchconvnet/imagenet21k.py:s60_224 --workdir=runs/patchconvnet/s60_224

The argument after the colon is a network, which is pretrained, or a network and a size, at which it is fine-tuned: 224
from ImageNet-21k, 384 from the weights of 224, 512 from those of 384. Each starts from the file that the export of the
one before writes, runs/patchconvnet/NETWORK_21k.safetensors or NETWORK_SIZE.safetensors there, or from
`--config.model.init_from=FILE`, with `--config.model.init_source=deit` if it is one of the authors'.

ImageNet is prepared once, from its two tar files. The catalogue of TFDS has no ImageNet-21k: your own folder of it is
prepared as `image_folder/imagenet21k`. `experiments/datasets.md` says how.

The authors, top-1 on ImageNet:

    argument    multiply-adds, G    top-1           argument    multiply-adds, G    top-1
    s60_224                  4.0    83.5 %          b60_384                 46.5    86.5 %
    s60_384                 11.8    84.9 %          b120_224                29.8    86.0 %
    s60_512                 20.9    85.4 %          b120_384                87.7    86.9 %
    b60_224                 15.8    85.4 %          l120_384                        87.1 %

No top-5. L120 is from a leaderboard's copy, the others from the README.

Not said: the recipes (DeiT III's commands here, see `recipes.imagenet21k_patchconvnet`, `imagenet_from_21k` and
`imagenet_tuned`), which classes of ImageNet-21k, whether 384 starts from 224 or from ImageNet-21k, whether 512 starts
from 384.

Ours: not run yet. 25.231 M parameters in S60, 99.389 M in B60, 188.611 M in B120 and 334.294 M in L120, with 1,000
classes."""

from aa_flax.config import recipes

NETWORKS = ("s60", "b60", "b120", "l120")
BEFORE = {"224": "21k", "384": "224", "512": "384"}


def get_config(run="s60_224"):
    network, _, size = run.partition("_")
    if network not in NETWORKS or size not in ("", *BEFORE):
        known = f"{', '.join(NETWORKS)}, and each of them followed by {', '.join(f'_{size}' for size in BEFORE)}"
        raise ValueError(f"imagenet21k.py knows {known}, not {run!r}")
    weights = f"runs/patchconvnet/{network}_{BEFORE.get(size)}.safetensors"
    if not size:
        config = recipes.imagenet21k_patchconvnet()
    elif size == "224":
        config = recipes.imagenet_from_21k(weights)
    else:
        config = recipes.imagenet_tuned(weights, int(size))
    config.label = f"PatchConvNet-{network.upper()}, ImageNet-21k" + (f" to ImageNet at {size}" if size else "")
    config.model.name = f"patchconvnet_{network}"
    return config
