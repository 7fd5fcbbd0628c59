"""The training recipes of Bello et al. (2019), section 4, as filled-in default configs.

A config file starts from one of these and sets its network. What the paper says is in the code; what neither it nor the
code that its baselines come from says is named in the docstrings, with what stands here instead.

For all of them it is not said, and chosen here: computation in bfloat16 with float32 parameters (Table 9 counts two
bytes a number); biases, batch norm and relative tables spared from weight decay; batch statistics of the global batch,
not of each worker; epochs without the examples that do not fill a batch.
"""

import math
from typing import Any

from aa_flax.training.config import default_config

_PER = 256
"""Images per which the papers quote learning rates: they grow with the batch size."""


def cifar(augmented: bool) -> Any:
    """Section 4.1, CIFAR-100: 500 epochs of momentum SGD, 5 % linear warm-up, cosine, flip and crop.

    The peak learning rate is 0.2 per 256 images. Baselines have batches of 1024 and weight decay 2e-4, `augmented`
    networks 256 and 5e-4; SE and GE are trained like the baseline here, the paper does not say.

    Not said: the padding before the crop (4 pixels, of the mean), what "mean-normalised" divides by (the standard
    deviation of each channel), where the cosine ends (at 0), dropout (none), label smoothing (none).
    """
    config = default_config()
    config.epochs = 500
    config.batch_size = 256 if augmented else 1024
    config.eval_batch_size = 1000
    config.checkpoint_every_epochs = 10
    config.model.dtype = "bfloat16"
    config.data.name = "cifar100"
    config.data.cache = True
    config.data.num_threads = 8
    config.data.crop = "pad"
    config.data.crop_padding = 4
    config.data.flip = True
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.2 * config.batch_size / _PER
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.05
    config.optimizer.weight_decay = 5e-4 if augmented else 2e-4
    return config


def imagenet_resnet(color_jitter: float = 0.0) -> Any:
    """Section 4.2, ResNets on ImageNet: 100 epochs of momentum SGD, 5 % linear warm-up, ÷10 at 30, 60, 80 and 90.

    The peak learning rate is 0.128 per 256 images. The paper takes the largest batch of 32, 64, 128 or 256 images per
    worker that fits; here it is 8 workers times 256 for every network, so 1.024 at a batch of 2048. On fewer or smaller
    devices set `optimizer.accumulation_steps`, or both `batch_size` and `optimizer.learning_rate`.

    Args:
        color_jitter: strength of `aa_flax.data.augment.color_jitter`. The paper says "standard Inception augmentation"
            and leaves open whether that includes colour: Inception's own code distorts it, the TensorFlow ResNet code
            of the paper's authors only crops and flips. Off by default, as in the latter.

    Not said: the evaluation crop (the centred 224 / 256 here), label smoothing, averaging, dropout (none of them), a
    batch norm scale of zero at the start of the residual sums (one here).
    """
    config = _imagenet()
    config.epochs = 100
    config.batch_size = 8 * 256
    config.data.color_jitter = color_jitter
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.128 * config.batch_size / _PER
    config.optimizer.schedule = "steps"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_at_epochs = (30.0, 60.0, 80.0, 90.0)
    config.optimizer.warmup = 0.05
    config.optimizer.weight_decay = 1e-4
    return config


def imagenet_mnasnet(augmented: bool) -> Any:
    """Section 4.3, MnasNets on ImageNet: 350 epochs of RMSProp, exponential decay.

    The paper says so much and refers to MnasNet for the rest, whose TensorFlow code has: batches of 1024; decay and
    momentum 0.9, epsilon 1e-3; 0.016 per 256 images after 5 epochs of warm-up, times 0.97 every 2.4 epochs from the
    start of the run; weight decay 1e-5 but on batch norm; label smoothing 0.1; dropout 0.2; averages of decay 0.9999;
    batch norm of momentum 0.99 and epsilon 1e-3; crop and flip.

    For `augmented` networks the paper halves the initial learning rate and adjusts the decay "such that the final
    learning rate stays the same": `matching_decay`.

    That code does two things that are not done here: it decays the biases of squeeze-excitation and classifier too, and
    lets the averages forget faster at first, with decay (1 + step) / (10 + step) until that reaches 0.9999, which it
    does after 90,000 of 437,000 steps. Not said: whether augmented networks decay their relative tables (no).
    """
    config = _imagenet()
    config.epochs = 350
    config.batch_size = 1024
    config.model.options = dict(dropout_rate=0.2, batch_norm_momentum=0.99, batch_norm_epsilon=1e-3)
    config.optimizer.name = "rmsprop"
    config.optimizer.rms_decay = 0.9
    config.optimizer.momentum = 0.9
    config.optimizer.epsilon = 1e-3
    config.optimizer.learning_rate = 0.016 * config.batch_size / _PER
    config.optimizer.schedule = "exponential"
    config.optimizer.decay_factor = 0.97
    config.optimizer.decay_every_epochs = 2.4
    config.optimizer.warmup = 5 / config.epochs
    config.optimizer.weight_decay = 1e-5
    config.optimizer.label_smoothing = 0.1
    config.optimizer.ema_decay = 0.9999
    if augmented:
        drops = math.ceil(config.epochs / config.optimizer.decay_every_epochs) - 1
        config.optimizer.learning_rate /= 2
        config.optimizer.decay_factor = matching_decay(config.optimizer.decay_factor, 0.5, drops)
    return config


def matching_decay(factor: float, initial: float, drops: int) -> float:
    """The decay factor with which `initial` times the learning rate ends where the whole one ends with `factor`.

    initial · f ** drops = factor ** drops, so f = factor · initial ** (-1 / drops).
    """
    return factor * initial ** (-1 / drops)


def _imagenet() -> Any:
    """What the recipes for ImageNet share."""
    config = default_config()
    config.eval_batch_size = 1024
    config.checkpoint_every_epochs = 1
    config.log_every_steps = 100
    config.model.dtype = "bfloat16"
    config.data.name = "imagenet2012"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = 224
    config.data.crop = "resized"
    config.data.flip = True
    config.data.num_threads = 16
    return config
