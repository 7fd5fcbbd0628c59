"""The training recipes of segmentation on ADE20k, as default configs with the fields set.

    ade20k_patchconvnet     Touvron et al. (2021): UPerNet, or Semantic FPN, by the recipe of the same group's XCiT
    ade20k_resnet           UPerNet with a ResNet, by the recipe of mmsegmentation

Touvron et al. report UPerNet; their code for it was not published and their text was not available. XCiT's code is the
nearest to it that there is.

Photographs are scaled until the shorter side is 512, or the longer one 2048, times a factor of 0.5 to 2, and cut to
512×512, of which less than 75 % are of one class; colours are changed at random. Held-out photographs are seen at a
factor of 1 on a canvas of 1024×1024, by windows of 512×512 every 341 pixels: pyramid pooling, which takes means of all
that it sees, does not see the padding of the canvas then. XCiT's code sees photographs whole, each on a canvas of its
own. It is ours, too, that a photograph whose longer side is more than twice the shorter one is made smaller.
"""

from typing import Any, Literal

from aa_flax.config.schema import default_config


def ade20k_patchconvnet(head: Literal["upernet", "semantic_fpn"], weights: str, source: str = "aa_flax") -> Any:
    """Return the config for a segmentation network with a PatchConvNet on ADE20k, from a backbone of ImageNet.

    It has AdamW in batches of 16, learning rate 6e-5 after 1500 steps of warm-up from a millionth of it, down to 0 in a
    straight line, weight decay 0.01, stochastic depth of 0.05 (XCiT-S12's); 127 epochs, which are 160,401 steps and
    XCiT's 160,000, or 64, 80,832, for Semantic FPN's 80,000. Batch statistics are of the whole batch, as SyncBN's.

    Unlike XCiT's: biases, layer scales and the token do not decay either, as norms do not.

    Args:
        head: "upernet" or "semantic_fpn".
        weights: the file of the backbone's weights, `config.model.init_from`.
        source: the library whose names that file uses, `config.model.init_source`.
    """
    config = _ade20k(weights, source)
    config.epochs = 127 if head == "upernet" else 64
    config.model.options = dict(drop_path_rate=0.05)
    config.optimizer.name = "adamw"
    config.optimizer.adam_epsilon = 1e-8
    config.optimizer.learning_rate = 6e-5
    config.optimizer.polynomial_power = 1.0
    config.optimizer.warmup_steps = 1500
    config.optimizer.warmup_start = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.weight_decay_mode = "decoupled"
    return config


def ade20k_resnet(weights: str, source: str = "aa_flax") -> Any:
    """Return the config for a UPerNet with a ResNet on ADE20k, from a backbone of ImageNet.

    It has 127 epochs, which are 160,401 steps and mmsegmentation's 160,000, of momentum SGD in batches of 16, learning
    rate 0.01, down to 1e-4 by a polynomial of power 0.9 without a warm-up, weight decay 5e-4 on all parameters. There
    ResNets have three 3×3 convolutions as their stem ("V1c"); here it is a 7×7.
    """
    config = _ade20k(weights, source)
    config.epochs = 127
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.01
    config.optimizer.polynomial_power = 0.9
    config.optimizer.final_learning_rate = 1e-4
    config.optimizer.weight_decay = 5e-4
    config.optimizer.weight_decay_mode = "l2"
    config.optimizer.weight_decay_exclude = ()
    return config


def _ade20k(weights: str, source: str) -> Any:
    """Return what the recipes share."""
    config = default_config()
    config.batch_size = 16
    config.eval_batch_size = 16
    config.eval_every_epochs = 8
    config.log_every_steps = 100
    config.model.dtype = "bfloat16"
    config.model.init_from = weights
    config.model.init_source = source
    config.model.init_part = "backbone"
    config.task.name = "segmentation"
    config.task.options = dict(average="all", window=512, stride=341)
    config.data.name = "label_folder/ade20k"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = (1024, 1024)
    config.data.train_sizes = ((512, 512),)
    config.data.crop = "scaled"
    config.data.scale_sides = (512, 2048)
    config.data.scale_range = (0.5, 2.0)
    config.data.most_of_one_class = 0.75
    config.data.photometric = True
    config.data.flip = True
    config.data.num_threads = 16
    config.optimizer.schedule = "polynomial"
    config.optimizer.warmup = 0.0
    return config
