"""PatchConvNet, 96 wide and 8 deep, on Imagenette at 96×96: attention maps of photographs from one CPU core.

    python -m aa_flax.train --config=experiments/imagenette/patchconvnet.py:single --workdir=runs/patchconvnet/single \
        --config.data.source_dir=FOLDER
    python -m aa_flax.predict --workdir=runs/patchconvnet/single --attention=FOLDER --image_size=384 IMAGE...

FOLDER of the first command holds imagenette128_webp.npz; it is needed once. The argument after the colon is `single`
(the default), `class` (a token for each class, as in S60_multi) or `average` (the mean in place of attention).

No network in Touvron et al. (2021) is this small: their smallest is 384 wide and 60 deep and trained on ImageNet
for hundreds of epochs. It is trained by LAMB as theirs are; the layer scales start at 0.1, because at their 1e-4 a run
of so few steps would leave the blocks almost switched off.

Ours, one seed each, 3,925 held-out photographs at 96×96 (standard error 0.8): `single` 56.9 % with 346,318 parameters,
`class` 57.8 % with 347,182; no clear difference. About 20 minutes each on one busy core; `average` was not run.
`patchconvnet_maps.py` beside this file collects them in `experiments/results/patchconvnet_attention.json`.
"""

from typing import Any

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax.training import default_config

POOLING: dict[str, dict[str, Any]] = {
    "single": dict(pooling="attention", pooling_layer_scale=0.1),
    "class": dict(pooling="attention", pooling_tokens="class", pooling_layer_scale=0.1),
    "average": dict(pooling="average"),
}


def get_config(pooling="single"):
    if pooling not in POOLING:
        raise ValueError(f"patchconvnet.py knows {', '.join(POOLING)}, not {pooling!r}")
    config = default_config()
    config.label = f"PatchConvNet, {pooling}"
    config.epochs = 10
    config.batch_size = 64
    config.eval_batch_size = 157
    config.eval_every_epochs = 5
    config.model.name = "patchconvnet_s60"
    trunk = dict(width=96, depth=8, layer_scale_init=0.1, rematerialize=False, unroll=8)
    config.model.options = {**trunk, **POOLING[pooling]}
    config.data.name = "imagenette128"
    config.data.eval_split = "validation"
    config.data.cache = True
    config.data.num_threads = 1
    config.data.image_size = 96
    config.data.crop = "resized"
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 8e-3
    config.optimizer.warmup = 0.05
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    config.optimizer.weight_decay_exclude = ("bias", "scale", "gamma", "gamma1", "gamma2", "tokens")
    config.optimizer.clip_norm = 1.0
    config.task.options.label_smoothing = 0.1
    return config
