"""ResNet-18, half as wide as usual, on CIFAR-10 at 64×64: weights from which Imagenette is fine-tuned.

    python -m aa_flax.train --config=experiments/imagenette/cifar10.py --workdir=runs/cifar10 \\
        --config.data.source_dir=FOLDER

FOLDER holds cifar10_jpeg.npz, which is needed once: CIFAR-10 as JPEG, so that its accuracy is not one of CIFAR-10.
`finetune_folder.py` beside this file runs this config and what follows.
"""

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.label = "ResNet-18, CIFAR-10"
    config.epochs = 10
    config.batch_size = 128
    config.eval_batch_size = 500
    config.eval_every_epochs = 5
    config.model.name = "resnet18"
    config.model.options = dict(width=32)
    config.data.name = "cifar10_jpeg"
    config.data.image_size = 64
    config.data.crop = "resized"
    config.data.cache = True
    config.data.num_threads = 1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    config.task.options.label_smoothing = 0.1
    return config
