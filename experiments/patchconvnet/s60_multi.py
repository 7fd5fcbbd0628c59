"""PatchConvNet-S60 with a token for each class on ImageNet: Touvron et al. (2021), as the authors' README lists it.

    python -m aa_flax.train --config=experiments/patchconvnet/s60_multi.py --workdir=runs/patchconvnet/s60_multi

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says. The second row of that table is
fine-tuned from S60, of `experiments/patchconvnet/s60.py`, by `--config=experiments/patchconvnet/s60_multi.py:tuned`
after

    python -m aa_flax.checkpoints export runs/patchconvnet/s60.safetensors --workdir=runs/patchconvnet/s60

384 channels, 60 blocks, 1,000 tokens, each with a map and a linear classifier of its own; layer scales start at 1e-4.

The authors: 25.6 M parameters, 5.3 G multiply-adds at 224, 81.1 % top-1 from scratch, 82.0 % top-1 "finetune"; no
top-5. LAMB, learning rate 3e-3, batch 2048 (deit, issue 185). Commonly stated, not confirmed: 400 epochs, binary
cross-entropy.

Not said: augmentation, mixing, weight decay, warm-up, evaluation crop and stochastic depth, as for S60; what is
fine-tuned and how (S60 with its classifier, but with new tokens, by `recipes.imagenet_tuned` at 224).

Ours: not run yet. 25.615 M parameters, 5.31 G multiply-adds, the printed figures."""

from aa_flax.config import recipes


def get_config(start="scratch"):
    if start not in ("scratch", "tuned"):
        raise ValueError(f"s60_multi.py knows scratch and tuned, not {start!r}")
    if start == "tuned":
        config = recipes.imagenet_tuned("runs/patchconvnet/s60.safetensors", 224)
        config.label = "PatchConvNet-S60, a token for each class, fine-tuned"
    else:
        config = recipes.imagenet_patchconvnet()
        config.label = "PatchConvNet-S60, a token for each class"
    config.model.name = "patchconvnet_s60_multi"
    return config
