"""The training recipes of the papers, as default configs with the fields set.

A config file starts from one of these and sets its network. The code has what a paper says. The docstrings name what
neither the paper nor the code that it refers to says, and the values that are used here instead.

    cifar, imagenet_resnet, imagenet_mnasnet                        Bello et al. (2019), section 4
    imagenet_aw                                                     Zhu et al. (2021): not found, replaced
    imagenet_patchconvnet                                           Touvron et al. (2021): known in part
    imagenet21k_patchconvnet, imagenet_from_21k, imagenet_tuned     the same: not known, replaced by DeiT III's

No source says the following, which is chosen here for all recipes. Computation is in bfloat16 with float32 parameters
(Bello et al., Table 9, count two bytes a number). Weight decay excludes biases, scales of norms, layers and gates,
tokens and relative tables. Batch statistics are those of the global batch, not of each worker. An epoch leaves out the
examples that do not fill a batch.
"""

import math
from typing import Any

from aa_flax.config.schema import default_config

_PER = 256
"""Number of images for which the papers state learning rates, which grow in proportion to the batch size."""


def cifar(augmented: bool) -> Any:
    """Return the config for CIFAR-100 of section 4.1 of Bello et al. (2019).

    It has 500 epochs of momentum SGD, 5 % linear warm-up, cosine, flip and crop. The peak learning rate is 0.2 per 256
    images. Baselines have batches of 1024 and weight decay 2e-4, `augmented` networks 256 and 5e-4. The paper does not
    say how SE and GE are trained; here it is like the baseline.

    The paper does not say, and the values here are: the padding before the crop (4 pixels, filled with the mean), what
    "mean-normalised" divides by (the standard deviation of each channel), where the cosine ends (at 0), dropout (none),
    label smoothing (none).
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
    """Return the config for ResNets on ImageNet of section 4.2 of Bello et al. (2019).

    It has 100 epochs of momentum SGD, 5 % linear warm-up, ÷10 at epochs 30, 60, 80 and 90. The peak learning rate is
    0.128 per 256 images. The paper takes the largest batch of 32, 64, 128 or 256 images per worker that fits in memory.
    Here it is 8 workers times 256 for every network, so the peak is 1.024 at a batch of 2048. On fewer or smaller
    devices set `optimizer.accumulation_steps`, or both `batch_size` and `optimizer.learning_rate`.

    Args:
        color_jitter: strength of `aa_flax.data.augment.device.color_jitter`; 0 is off. The paper says "standard
            Inception augmentation" and leaves open whether that includes colour. Inception's own code distorts colours;
            the TensorFlow ResNet code of the paper's authors only crops and flips, which is the default here.

    The paper does not say, and the values here are: the evaluation crop (the centred 224 / 256), label smoothing,
    weight averaging and dropout (none of them), the initial batch norm scale at the end of residual branches (one,
    not zero).
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
    """Return the config for MnasNets on ImageNet of section 4.3 of Bello et al. (2019).

    The paper says 350 epochs of RMSProp with exponential decay of the learning rate, and refers to MnasNet for the
    rest. The TensorFlow code of MnasNet has: batches of 1024; RMSProp's decay and momentum 0.9, epsilon 1e-3; learning
    rate 0.016 per 256 images after 5 epochs of warm-up, times 0.97 every 2.4 epochs from the start of the run; weight
    decay 1e-5, not on batch norm; label smoothing 0.1; dropout 0.2; weight averages of decay 0.9999; batch norm of
    momentum 0.99 and epsilon 1e-3; crop and flip.

    For `augmented` networks the paper halves the initial learning rate and adjusts the decay "such that the final
    learning rate stays the same"; see `matching_decay`.

    That code does two things that are not done here. It applies weight decay to the biases of squeeze-and-excitation
    and classifier too. And its weight averages start with the decay (1 + step) / (10 + step) until that reaches 0.9999,
    after 90,000 of 437,000 steps. The paper does not say whether weight decay applies to relative tables; here it does
    not.
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
    config.task.options.label_smoothing = 0.1
    config.optimizer.ema_decay = 0.9999
    if augmented:
        drops = math.ceil(config.epochs / config.optimizer.decay_every_epochs) - 1
        config.optimizer.learning_rate /= 2
        config.optimizer.decay_factor = matching_decay(config.optimizer.decay_factor, 0.5, drops)
    return config


def matching_decay(factor: float, initial: float, drops: int) -> float:
    """Return the decay factor f with which a learning rate scaled by `initial` has the same final value.

    initial · f ** drops = factor ** drops, so f = factor · initial ** (-1 / drops).
    """
    return factor * initial ** (-1 / drops)


def imagenet_aw() -> Any:
    """Return a config for AW-convolution on ImageNet, in place of that of Zhu et al. (2021), which was not found.

    It is the recipe of the code of BAM and CBAM (Jongchan/attention-module, `train_imagenet.py`), two of the modules
    with which the paper compares AW-convolution: momentum SGD, batches of 256, learning rate 0.1 without warm-up, ÷10
    every 30 epochs, momentum 0.9, weight decay 1e-4, crops and flips. The README of that code trains CBAM for 100
    epochs, as here, and BAM for 90. That code applies weight decay to biases and norm scales too.
    """
    config = _imagenet()
    config.epochs = 100
    config.batch_size = 256
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "steps"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_at_epochs = (30.0, 60.0, 90.0)
    config.optimizer.warmup = 0.0
    config.optimizer.weight_decay = 1e-4
    return config


def imagenet_patchconvnet() -> Any:
    """Return the config for PatchConvNet (Touvron et al., 2021) on ImageNet at 224, as far as it is known.

    Certain, from the first author (facebookresearch/deit, issue 185): LAMB, learning rate 3e-3, a batch of 2048, based
    on DeiT's `main.py`. Commonly stated, not confirmed: 400 epochs, binary cross-entropy.

    Not known, so the values are the defaults of `main.py`: RandAugment (two operations, magnitude 9 ± 0.5, increasing,
    each applied half of the time), random erasing 0.25, mixup 0.8 or cutmix 1.0 for each batch, weight decay 0.05, a
    linear warm-up of 5 epochs, cosine. A batch there has 3 copies of each image. Here it has 4, because a batch must
    have all copies of its images; `data.repeats=3` needs a `batch_size` such as 2016. Colour jitter is off, because
    timm ignores that file's colour jitter if RandAugment is on; 3-Augment came later (DeiT III, 2022). Stochastic depth
    (`model.options.drop_path_rate`) is off, because the author only says that it depends on the size.

    As in that code, the target of a mixed image is 1 for each of its classes, without label smoothing; as in timm's
    LAMB, the gradient's norm is at most 1. Unlike that code, the warm-up starts and the cosine ends at 0 (there at 1e-6
    and 1e-5), and crops are bilinear (there bicubic). That code averages the weights but does not evaluate the
    averages, so there are none here.
    """
    config = _lamb(_imagenet(), epochs=400, learning_rate=3e-3, weight_decay=0.05)
    _rand_augment(config)
    config.data.repeats = 4
    config.data.random_erasing = 0.25
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.data.cutmix_probability = 0.5
    config.task.options.loss = "binary_cross_entropy"
    config.task.options.binary_targets = True
    return config


def imagenet21k_patchconvnet() -> Any:
    """Return a config for pretraining on ImageNet-21k, as for the larger results of Touvron et al. (2021).

    Nothing is known of the paper's recipe. This one is DeiT III's command for a ViT-S, by the same authors and with the
    same optimiser (facebookresearch/deit, README_revenge.md, 2022): 240 epochs of LAMB, batches of 2048, learning rate
    1e-3, weight decay 0.02, warm-up of 5 epochs, 3-Augment with colour jitter 0.3, cutmix 1.0, label smoothing 0.1,
    cross-entropy. That command resizes the whole image and shifts it by up to 4 pixels; here crops are random resized
    ones. Its stochastic depth is 0.05; here it is off.

    The catalogue of TFDS does not have ImageNet-21k. `image_folder/imagenet21k` is the user's own data set, prepared
    from a folder with `train` and `val` (`experiments/datasets.md`). It is not known which of its classes the authors
    used.
    """
    config = _lamb(_imagenet(), epochs=240, learning_rate=1e-3, weight_decay=0.02)
    config.data.name = "image_folder/imagenet21k"
    config.data.eval_split = "val"
    return _three_augment(config)


def imagenet_from_21k(weights: str) -> Any:
    """Return a config for fine-tuning on ImageNet at 224, from a file of weights trained on ImageNet-21k.

    Nothing is known of the paper's recipe. This one is DeiT III's command, see `imagenet21k_patchconvnet`: 50 epochs of
    LAMB, learning rate 3e-4, the rest as in pretraining.
    """
    config = _lamb(_imagenet(), epochs=50, learning_rate=3e-4, weight_decay=0.02)
    config.model.init_from = weights
    return _three_augment(config)


def imagenet_tuned(weights: str, image_size: int | tuple[int, int]) -> Any:
    """Return a config for fine-tuning a file of weights on ImageNet at another size, 384 or 512 in the paper's tables.

    Nothing is known of the paper's recipe. This one is DeiT III's command for a ViT-S at 384 (facebookresearch/deit,
    README_revenge.md) with another optimiser: 20 epochs, 5 of them warm-up, batches of 512, weight decay 0.1,
    RandAugment, mixup 0.8, cutmix 1.0, label smoothing 0.1, cross-entropy; one copy of each image and no erasing.

    The command has AdamW at 1e-5, which this library does not have. LAMB at 3e-4 replaces it, by an estimate: a step of
    AdamW changes weights of size s by about 1e-5 / s of their size, a step of LAMB by the learning rate, and s is about
    0.03 in these networks.
    """
    config = _lamb(_imagenet(), epochs=20, learning_rate=3e-4, weight_decay=0.1, batch_size=512)
    _rand_augment(config)
    config.eval_batch_size = 256
    config.model.init_from = weights
    config.data.image_size = image_size
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.task.options.label_smoothing = 0.1
    return config


def _lamb(config: Any, epochs: int, learning_rate: float, weight_decay: float, batch_size: int = 2048) -> Any:
    """Set LAMB as the DeiT repository runs it: timm's settings, 5 epochs of warm-up, cosine."""
    config.epochs = epochs
    config.batch_size = batch_size
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 5 / epochs
    config.optimizer.weight_decay = weight_decay
    config.optimizer.weight_decay_mode = "decoupled"
    config.optimizer.clip_norm = 1.0
    return config


def _rand_augment(config: Any) -> Any:
    """Set the RandAugment that DeiT calls rand-m9-mstd0.5-inc1."""
    config.data.auto_augment = "rand"
    config.data.rand_augment_operations = 2
    config.data.rand_augment_magnitude = 9.0
    config.data.rand_augment_std = 0.5
    config.data.rand_augment_increasing = True
    config.data.rand_augment_probability = 0.5
    return config


def _three_augment(config: Any) -> Any:
    """Set the augmentation and the label smoothing of DeiT III with ImageNet-21k."""
    config.data.auto_augment = "three"
    config.data.color_jitter = 0.3
    config.data.cutmix = 1.0
    config.task.options.label_smoothing = 0.1
    return config


def _imagenet() -> Any:
    """Return the config that the recipes for ImageNet share."""
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
