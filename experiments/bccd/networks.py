"""Small detectors for photographs of blood cells, trained on a CPU: what the configs beside this file share."""

from typing import Any

from aa_flax.training import default_config

NETWORKS = ("plain", "se", "aa")


def recipe() -> Any:
    """Return the config of a detector at 240×320, which still lacks data, epochs and network."""
    config = default_config()
    config.batch_size = 8
    config.eval_batch_size = 8
    config.eval_every_epochs = 10
    config.log_every_steps = 5
    config.task.name = "detection"
    config.data.image_size = (240, 320)
    config.data.crop = "scaled"
    config.data.scale_range = (0.8, 1.2)
    config.data.flip = True
    config.data.cache = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    config.optimizer.clip_norm = 10.0
    return config


def config_of(network: str, file: str, width: int) -> Any:
    """Return the config of a RetinaNet at 240×320, which still lacks data and epochs.

    The backbone is a ResNet-18 whose stages have 1, 2, 4 and 8 times `width` channels; pyramid and heads have twice
    `width`, and two convolutions before the last. In `aa` the first convolution of every residual block of the last
    three stages attends, at 15×20, 15×20 and 8×10, with two heads.

    Anchors have half the size of the paper's, because the photographs are small: those reach 3 of the 38 platelets in
    48 photographs at an overlap of 0.5, these all. Level 7, a map of 2×3, is left out.

    Args:
        network: one of `NETWORKS`: without a module, with squeeze-and-excitation, or with attention.
        file: the name of the config's file, for the error about an unknown network.
        width: channels of the first stage.
    """
    if network not in NETWORKS:
        raise ValueError(f"{file} knows {', '.join(NETWORKS)}, not {network!r}")
    config = recipe()
    prefix = "" if network == "plain" else f"{network}_"
    config.label = f"RetinaNet, {prefix.upper().replace('_', '-')}ResNet-18"
    config.model.name = f"retinanet_{prefix}resnet18"
    around = dict(fpn_width=2 * width, head_width=2 * width, head_depth=2, anchor_size=2.0, max_level=6)
    config.model.options = dict(width=width, batch_norm_momentum=0.9, **around)
    if network == "aa":
        config.model.options.update(dict(kappa=0.25, upsilon=0.125, num_heads=2, min_key_depth_per_head=8))
    return config
