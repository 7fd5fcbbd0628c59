"""AA-Wide-ResNet-28-10 on CIFAR-100: Table 1 of Bello et al. (2019), last row.

    python -m aa_flax.train --config=experiments/cifar/aa_wide_resnet28_10.py --workdir=runs/aa_wrn \
        --config.data.source_dir=FOLDER

FOLDER holds the official files of CIFAR-100, binary or Python version; it is needed once.

The paper: 36.2 M parameters, 81.6 % top-1, 95.2 % top-5; 500 epochs, batch 256 on 8 GPUs, SGD with momentum 0.9,
learning rate from 0 to 0.2 over the first 5 % of the run, then cosine; weight decay 5e-4; mean normalisation, flip and
crop. Not said: how wide the crop's padding is (4, as everywhere, here), what the cosine ends at (0 here), whether
weight decay spares anything (biases, batch norm and tables here).

Ours: not run yet.
"""

from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.label = "AA-WRN-28-10"
    config.epochs = 500
    config.batch_size = 256
    config.eval_batch_size = 256
    config.checkpoint_every_epochs = 10
    config.model.name = "aa_wide_resnet28_10"
    config.model.dtype = "bfloat16"
    config.data.name = "cifar100"
    config.data.cache = True
    config.data.num_threads = 8
    config.optimizer.learning_rate = 0.2
    config.optimizer.warmup = 0.05
    config.optimizer.weight_decay = 5e-4
    return config
