"""The training recipes of detection, as default configs with the fields set; `recipes` has those of classification.

    coco_retinanet                  Bello et al. (2019), section 4.4: RetinaNet on COCO from scratch
    coco_retinanet_from_backbone    the same from a backbone trained on ImageNet, of Ghiasi et al. (2018)

Bello et al. say: 150 epochs, no pretraining on ImageNet, and for the rest as in the papers of RetinaNet (Lin et al.,
2017b) and DropBlock (Ghiasi et al., 2018). What they leave open is from the code that those authors published,
tensorflow/tpu's `models/official/retinanet`.
"""

from typing import Any

from aa_flax.config.schema import default_config

_NORMS = ("bn", "bn1", "bn2", "bn3", "shortcut_bn")
"""The batch norms of a ResNet, which are the backbone's alone: those of pyramid and heads have other names."""


def coco_retinanet() -> Any:
    """Return the config for a RetinaNet with a ResNet on COCO from scratch, Tables 5 and 8 of Bello et al. (2019).

    It has 150 epochs of momentum SGD in batches of 64, learning rate 0.08 after one epoch of warm-up, ÷10 at epochs 120
    and 140, weight decay 1e-4, in the loss; photographs are mirrored, and scaled by 0.8 to 1.2 times what fits 640×640.
    118,287 photographs make 277,200 steps. The learning rate and the batch are the code's; the epochs of the drops and
    the scales are DropBlock's by a second-hand account, with which the 277,200 steps of the same authors' later config
    (`models/official/detection`, retinanet_autoaugment.yaml) agree.

    As in the code: batch statistics and the loss are those of each of 8 parts of the batch, its TPU cores; 90 columns
    of class scores, for COCO's category numbers 1 to 90; no weight decay on the backbone's batch norms, but on those of
    pyramid and heads, and on all biases; the network computes in bfloat16.

    Unlike the code: the warm-up starts at 0 (there 0.008); relative tables, which it does not have, do not decay; boxes
    without area and crowds are left out, and what a crop leaves of an object if it is less than a pixel wide or high.

    Not known of Bello et al.: kappa, upsilon and heads of the augmented backbones (ImageNet's here; the parameters that
    are printed fit others), whether the first convolution kept its first weights, as that code always has it (no here;
    `model.options.frozen_stem`), the focal loss's gamma (1.5 here and in that code, 2 in Lin et al.), the range of
    scales, and which photographs of COCO it was trained and scored on (train2017 and val2017 here).
    """
    config = default_config()
    config.epochs = 150
    config.batch_size = 64
    config.eval_batch_size = 64
    config.eval_every_epochs = 5
    config.log_every_steps = 100
    config.model.dtype = "bfloat16"
    config.model.options = dict(normalizer="device")
    config.task.name = "detection"
    config.task.options = dict(columns="category_ids")
    config.data.name = "coco/2017"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = 640
    config.data.crop = "scaled"
    config.data.scale_range = (0.8, 1.2)
    config.data.flip = True
    config.data.num_threads = 16
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.08
    config.optimizer.schedule = "steps"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_at_epochs = (120.0, 140.0)
    config.optimizer.warmup = 1 / config.epochs
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mode = "l2"
    config.optimizer.weight_decay_exclude = (
        *(f"{norm}.{parameter}" for norm in _NORMS for parameter in ("scale", "bias")),
        "rel_height",
        "rel_width",
    )
    config.parallel.batch_norm_groups = 8
    return config


def coco_retinanet_from_backbone(weights: str, source: str = "aa_flax") -> Any:
    """Return the config for the same RetinaNet from a backbone that was trained on ImageNet.

    It has 28 epochs, with drops at 16 and 22; everything else is as in `coco_retinanet`. These are DropBlock's numbers
    by a second-hand account. Bello et al. print no result with pretraining.

    Args:
        weights: the file of the backbone's weights, `config.model.init_from`.
        source: the library whose names that file uses, `config.model.init_source`.
    """
    config = coco_retinanet()
    config.epochs = 28
    config.optimizer.decay_at_epochs = (16.0, 22.0)
    config.optimizer.warmup = 1 / config.epochs
    config.model.init_from = weights
    config.model.init_source = source
    config.model.init_part = "backbone"
    return config
