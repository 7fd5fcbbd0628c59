"""ResNet-18, plain, with squeeze-and-excitation and attention-augmented, on Imagenette at 64×64.

    python -m aa_flax.train --config=experiments/imagenette/resnet18.py:aa_resnet18 --workdir=runs/imagenette/aa_0 \
        --config.data.source_dir=FOLDER --config.seed=0

FOLDER holds imagenette128_webp.npz; it is needed once. The argument after the colon is `resnet18` (the default),
`se_resnet18` or `aa_resnet18`; everything else is the same for the three. `experiments/compare.py` trains all three
with several seeds and draws the curves.

No table of Bello et al. (2019) has this experiment; it asks their question at a size that two CPU cores can answer. The
augmented network is that of their ResNet-34: the first 3×3 of every block of the last three stages, eight heads,
kappa = upsilon = 0.25, the first of these stages downsampled. At 64×64 it attends at 4×4 (downsampled from 8×8), 4×4
and 2×2.

Ours: `experiments/results/imagenette.md`.
"""

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax.training import default_config

MODELS = ("resnet18", "se_resnet18", "aa_resnet18")


def get_config(model="resnet18"):
    if model not in MODELS:
        raise ValueError(f"resnet18.py knows {', '.join(MODELS)}, not {model!r}")
    config = default_config()
    config.label = model
    config.epochs = 15
    config.batch_size = 128
    config.eval_batch_size = 400
    config.model.name = model
    config.data.name = "imagenette128"
    config.data.eval_split = "validation"
    config.data.cache = True
    config.data.num_threads = 1
    config.data.image_size = 64
    config.data.crop = "resized"
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 5e-4
    config.task.options.label_smoothing = 0.1
    return config
