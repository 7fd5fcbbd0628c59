"""A small RetinaNet on all of BCCD, as published: 205 training, 87 validation and 72 test photographs of blood cells.

    python -m aa_flax.train --config=experiments/bccd/bccd.py --workdir=runs/bccd --config.data.source_dir=FOLDER

FOLDER holds `JPEGImages`, `Annotations` and `ImageSets` of https://github.com/Shenggan/BCCD_Dataset (MIT licence); it
is needed once. The argument after the colon is `plain` (the default), `se` or `aa`. Photographs of 640×480 are seen at
320×240. The test photographs are scored; nothing is chosen by them.

Ours: AP 0.536, AP50 0.884 (plain), 0.546, 0.893 (se), 0.542, 0.895 (aa), means of three seeds: not told apart
(experiments/results/bccd.md).
"""

from experiments.bccd.networks import NETWORKS, config_of

MODELS = NETWORKS


def get_config(network="plain"):
    config = config_of(network, "bccd.py", width=32)
    config.epochs = 20
    config.data.name = "voc/bccd"
    config.data.eval_split = "test"
    return config
