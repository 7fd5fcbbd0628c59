"""A small Faster R-CNN on all of BCCD, as published: 205 training, 87 validation, 72 test photographs of blood cells.

    python -m aa_flax.train --config=experiments/bccd/faster_rcnn.py --workdir=runs/bccd_faster_rcnn \\
        --config.data.source_dir=FOLDER

FOLDER holds `JPEGImages`, `Annotations` and `ImageSets` of https://github.com/Shenggan/BCCD_Dataset (MIT licence); it
is needed once. The argument after the colon is `plain` (the default) or `aw`, in which the convolutions of the backbone
are AW-convolutions (Zhu et al., 2021). Photographs of 640×480 are seen at 320×240. The test photographs are scored;
nothing is chosen by them.

Ours, mean of three seeds: AP 0.576, AP50 0.905 (plain), 0.575, 0.910 (aw): not told apart
(experiments/results/README.md).
"""

from experiments.bccd.networks import recipe

MODELS = ("plain", "aw")


def get_config(network="plain"):
    """Return the config of a Faster R-CNN on a ResNet-18 whose stages have 1, 2, 4 and 8 times 32 channels.

    It learns from scratch, so that batch norms learn and the pyramid has some. Anchors have half the size of the
    paper's, because the photographs are small. For two cores, heads are narrow, and the losses look at 128 anchors and
    64 regions of a photograph, of which as many are proposed as a few hundred cells need.
    """
    if network not in MODELS:
        raise ValueError(f"faster_rcnn.py knows {', '.join(MODELS)}, not {network!r}")
    config = recipe()
    prefix = "" if network == "plain" else f"{network}_"
    config.label = f"Faster R-CNN, {prefix.upper().replace('_', '-')}ResNet-18"
    config.model.name = f"faster_rcnn_{prefix}resnet18"
    learning = dict(frozen_norms=False, frozen_stages=0, batch_norm_epsilon=1e-5, fpn_norm=True)
    heads = dict(fpn_width=48, rpn_width=48, box_head_width=128, anchor_size=4.0)
    proposals = dict(proposals=300, proposals_in_training=300)
    proposals |= dict(proposals_per_level=300, proposals_per_level_in_training=300)
    config.model.options = dict(width=32, **learning, **heads, **proposals, rpn_samples=128, box_samples=64)
    config.epochs = 20
    config.data.name = "voc/bccd"
    config.data.eval_split = "test"
    return config
