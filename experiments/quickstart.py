"""A small attention-augmented Wide-ResNet on the embedded 8,000 + 2,000 images of Fashion-MNIST, for two CPU cores.

    bash experiments/quickstart.sh
    python -m aa_flax.train --config=experiments/quickstart.py --workdir=runs/quickstart

`--config=experiments/quickstart.py:plain` is the same network without attention.

Attention augments the first convolution of every residual block of all three stages, as in Table 1 of Bello et al.
(2019), at 14×14 (downsampled), 14×14 and 7×7. To keep the run small it has WRN-10-1 instead of WRN-28-10, two heads of
depth 8, kappa = upsilon = 0.25, and no random crop (12 epochs are too few to profit from it).
"""

from aa_flax.training import default_config


def get_config(variant="aa"):
    config = default_config()
    config.label = "AA-WRN-10-1"
    config.epochs = 12
    config.batch_size = 64
    config.eval_batch_size = 400
    config.model.name = "aa_wide_resnet28_10"
    config.model.options = dict(
        depth=10,
        widen_factor=1,
        num_heads=2,
        kappa=0.25,
        upsilon=0.25,
        min_key_depth_per_head=8,
        attention_downsample=(2, 1, 1),
    )
    config.data.name = "fashion_mnist_subset"
    config.data.cache = True
    config.data.num_threads = 1
    config.data.crop = "none"
    config.optimizer.learning_rate = 0.15
    config.optimizer.warmup = 0.1
    config.optimizer.nesterov = True
    config.task.options.label_smoothing = 0.1
    if variant == "plain":
        config.label = "WRN-10-1"
        config.model.name = "wide_resnet28_10"
        config.model.options = dict(depth=10, widen_factor=1)
    elif variant != "aa":
        raise ValueError(f"quickstart.py knows the variants aa and plain, not {variant!r}")
    return config
