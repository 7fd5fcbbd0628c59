"""A small Wide-ResNet on CIFAR-10: attention on activations, on weights, on both, and in place of the mean.

    python -m aa_flax.train --config=experiments/cifar/weighted_and_pooled.py:aw --workdir=runs/weighted/aw_0 \
        --config.data.source_dir=FOLDER --config.seed=0

FOLDER holds cifar10_jpeg.npz; it is needed once. The argument after the colon is `plain` (the default), `se`, `aw`,
`aw_se`, `pooled` (attention in place of the mean, one token) or `pooled_by_class` (one token a class); everything else
is the same for all. `experiments/compare.py` trains all with several seeds and draws the curves.

No table of the papers has this experiment: it asks at a size that two CPU cores can answer whether the layers train,
and what they add. WRN-10-1 with a reduction of 4, because at 16 its gates would have one to four hidden channels; the
gammas of attention pooling start at 0.1, because at the 1e-4 of PatchConvNet so short a run would hardly use it.
AW-convolution is a reconstruction. One epoch is far from convergence.

Ours: `experiments/results/weighted_and_pooled.md`.
"""

from typing import Any

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax.training import default_config

POOLED: dict[str, Any] = {"pooling": "attention", "pooling_layer_scale": 0.1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("wide_resnet28_10", {}),
    "se": ("se_wide_resnet28_10", {"reduction": 4}),
    "aw": ("aw_wide_resnet28_10", {"aw_reduction": 4}),
    "aw_se": ("aw_se_wide_resnet28_10", {"reduction": 4, "aw_reduction": 4}),
    "pooled": ("wide_resnet28_10", POOLED),
    "pooled_by_class": ("wide_resnet28_10", {**POOLED, "pooling_tokens": "class"}),
}


def get_config(model="plain"):
    if model not in MODELS:
        raise ValueError(f"weighted_and_pooled.py knows {', '.join(MODELS)}, not {model!r}")
    name, options = MODELS[model]
    config = default_config()
    config.label = model
    config.epochs = 1
    config.batch_size = 64
    config.eval_batch_size = 400
    config.log_every_steps = 25
    config.model.name = name
    config.model.options = {"depth": 10, "widen_factor": 1, **options}
    config.data.name = "cifar10_jpeg"
    config.data.cache = True
    config.data.num_threads = 1
    config.data.crop = "pad"
    config.data.crop_padding = 4
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 5e-4
    return config
