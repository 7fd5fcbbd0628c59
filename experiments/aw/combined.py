"""AW-convolution beside other attention modules on ImageNet: Zhu et al. (2021), a reconstruction.

    python -m aa_flax.train --config=experiments/aw/combined.py:aw_se_resnet50 --workdir=runs/aw_se_resnet50

ImageNet is prepared once, from its two tar files, as `experiments/datasets.md` says.

The argument after the colon is a network: `aw_` or nothing, then `se_`, `ge_`, `bam_`, `cbam_`, `gala_` or `aa_`, then
`resnet50` or `resnet101`. Modules stay where they are and the 3×3 convolutions are gated; in `aw_aa_` those beside the
attention. The paper's text was not available.

The paper: up to +0.57 % top-1 on top of earlier attention modules (abstract). Which modules and which networks that
was, accuracies, parameters, FLOPs and the training recipe were not found.

Not known: the recipe (here that of BAM's and CBAM's code, `recipes.imagenet_aw`), and the position of the gates beside
each module.

Ours: not run yet. 28.249 M parameters in `aw_se_resnet50`; beside any module but `aa_` 161,432 more than without gates
with ResNet-50, 305,592 with ResNet-101."""

from aa_flax.config import recipes

MODULES = ("se", "ge", "bam", "cbam", "gala", "aa")
NETWORKS = [f"{gates}{module}_resnet{n}" for gates in ("aw_", "") for module in MODULES for n in (50, 101)]


def get_config(network="aw_se_resnet50"):
    if network not in NETWORKS:
        raise ValueError(f"combined.py knows {', '.join(NETWORKS)}, not {network!r}")
    config = recipes.imagenet_aw()
    config.label = config.model.name = network
    return config
