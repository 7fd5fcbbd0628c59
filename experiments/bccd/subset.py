"""A small RetinaNet on the embedded 48 + 16 photographs of blood cells, for two CPU cores.

    python -m aa_flax.train --config=experiments/bccd/subset.py --workdir=runs/bccd_subset
    python -m aa_flax.predict --workdir=runs/bccd_subset photo.jpg

The argument after the colon is `aa` (the default), `se` or `plain`. The photographs are a part of BCCD (MIT licence) at
320×240 pixels, of three classes: red cells, white cells and platelets. 16 photographs tell no two networks apart.

Ours: AP 0.486, AP50 0.896 (aa, 785,338 parameters), 179 s with compilation on two cores.
"""

from experiments.bccd.networks import config_of


def get_config(network="aa"):
    config = config_of(network, "subset.py", width=16)
    config.epochs = 50
    config.data.name = "bccd_subset"
    config.data.num_threads = 1
    return config
