"""A small attention-augmented network of volumes that names solids: spheres, cubes, tori ..., on two CPU cores.

    python -m experiments.solids.make_solids --out=solids
    python -m aa_flax.train --config=experiments/solids/aa_wide_resnet.py --workdir=runs/solids \\
        --config.data.source_dir=solids

`make_solids.py` says what the data are: 1,200 + 300 volumes of 10×10×10, each with one solid of six kinds under noise.
`--config=experiments/solids/aa_wide_resnet.py:plain` is the same network without attention.

It is the Wide-ResNet of experiments/quickstart.py in three dimensions. The last two stages attend, over 5×5×5 and 3×3×3
locations, with a relative table for depth, height and width each.

Ours: 77.3 % of the 300 held-out volumes after 6 epochs, where training accuracy still rises
(experiments/results/solids.json).
"""

from aa_flax.training import default_config


def get_config(variant="aa"):
    config = default_config()
    config.label = "AA-WRN-10-1 of volumes"
    config.epochs = 6
    config.batch_size = 30
    config.eval_batch_size = 100
    config.eval_every_epochs = 3
    config.log_every_steps = 10
    config.model.name = "aa_wide_resnet28_10"
    config.model.options = dict(
        depth=10,
        widen_factor=1,
        num_heads=2,
        kappa=0.25,
        upsilon=0.25,
        min_key_depth_per_head=8,
        attention_stages=(2, 3),
    )
    config.data.name = "arrays/solids"
    config.data.cache = True
    config.data.num_threads = 1
    config.data.crop = "none"
    config.data.flip = False
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup = 0.1
    config.optimizer.nesterov = True
    config.optimizer.weight_decay_exclude = ("bias", "scale", "rel_depth", "rel_height", "rel_width")
    config.task.options.label_smoothing = 0.1
    if variant == "plain":
        config.label = "WRN-10-1 of volumes"
        config.model.name = "wide_resnet28_10"
        config.model.options = dict(depth=10, widen_factor=1)
    elif variant != "aa":
        raise ValueError(f"aa_wide_resnet.py knows the variants aa and plain, not {variant!r}")
    return config
