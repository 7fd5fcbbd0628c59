"""Checks of a config whose fields are valid one by one, for values that contradict each other."""

import dataclasses
from typing import Any

from aa_flax.config.values import ConfigError


def check(config: Any) -> None:
    """Check a `Config` for contradictions.

    Raises:
        ConfigError: names the first contradiction, in one line.
    """
    _check_batch(config)
    _check_data(config.data)
    _check_optimizer(config.optimizer)
    if not config.model.init_from:
        for field in dataclasses.fields(config.model):
            meaningless = field.name.startswith(("frozen", "init_")) and field.name != "init_from"
            if meaningless and getattr(config.model, field.name) != field.default:
                raise ConfigError(f"config field 'model.{field.name}' needs 'model.init_from'")
    if config.model.frozen_epochs and not config.model.frozen:
        raise ConfigError("config field 'model.frozen_epochs' needs 'model.frozen', the parts that wait so long")
    if config.model.frozen_epochs >= config.epochs:
        raise ConfigError(
            f"config field 'model.frozen_epochs' ({config.model.frozen_epochs}) must be below 'epochs' "
            f"({config.epochs}); 0 keeps the parts frozen to the end"
        )


def _check_batch(config: Any) -> None:
    data, optimizer = config.data, config.optimizer
    if config.batch_size % optimizer.accumulation_steps:
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must divide by "
            f"'optimizer.accumulation_steps' ({optimizer.accumulation_steps})"
        )
    if config.batch_size % (config.parallel.batch_norm_groups * optimizer.accumulation_steps):
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must divide by 'parallel.batch_norm_groups' "
            f"({config.parallel.batch_norm_groups}) times 'optimizer.accumulation_steps'"
        )
    if config.batch_size % data.repeats:
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must divide by 'data.repeats' ({data.repeats})"
        )
    if (data.mixup or data.cutmix) and data.repeats == config.batch_size:
        raise ConfigError(
            f"config field 'data.repeats' ({data.repeats}) leaves each batch one image, which 'data.mixup' or "
            "'data.cutmix' would mix with itself"
        )
    if (data.mixup or data.cutmix) and config.batch_size % 2:
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must be even where 'data.mixup' or 'data.cutmix' mix the "
            "images by pairs"
        )


def _check_data(data: Any) -> None:
    if data.crop in ("resized", "scaled") and not data.image_size:
        raise ConfigError(f"config field 'data.crop' is {data.crop!r}, which needs 'data.image_size'")
    if len(data.scale_range) != 2 or data.scale_range[0] > data.scale_range[1]:
        raise ConfigError(f"config field 'data.scale_range' must be the least and the largest, got {data.scale_range}")
    if data.most_of_one_class < 1 and data.crop != "scaled":
        raise ConfigError(f"config field 'data.most_of_one_class' goes with 'data.crop' = 'scaled', got {data.crop!r}")
    if data.scale_sides and data.crop != "scaled" and data.resize != "fit":
        raise ConfigError("config field 'data.scale_sides' goes with 'data.crop' = 'scaled' or 'data.resize' = 'fit'")
    if data.fast_decode and data.cache:
        raise ConfigError(
            "config fields 'data.fast_decode' and 'data.cache' exclude each other: the cache is decoded once"
        )
    on_host = {
        "data.crop": data.crop in ("resized", "scaled"),
        "data.auto_augment": data.auto_augment,
        "data.repeats": data.repeats > 1,
    }
    on_host |= {"data.fast_decode": data.fast_decode, "data.train_sizes": data.train_sizes}
    if data.on_device and any(on_host.values()):
        excluded = ", ".join(repr(name) for name, given in on_host.items() if given)
        raise ConfigError(f"config field 'data.on_device' excludes {excluded}, which work on the host, image by image")
    if len(data.mean) != len(data.std):
        raise ConfigError(f"config fields 'data.mean' and 'data.std' differ in length: {data.mean} and {data.std}")


def _check_optimizer(optimizer: Any) -> None:
    if optimizer.nesterov and not optimizer.momentum:
        raise ConfigError("config field 'optimizer.nesterov' needs 'optimizer.momentum' above 0")
    if optimizer.nesterov and optimizer.name != "sgd":
        raise ConfigError(f"config field 'optimizer.nesterov' is for 'optimizer.name' 'sgd', not {optimizer.name!r}")
    if optimizer.name in ("adamw", "lamb") and optimizer.weight_decay and optimizer.weight_decay_mode == "l2":
        raise ConfigError(
            f"config field 'optimizer.weight_decay_mode' must be 'decoupled' with 'optimizer.name' {optimizer.name!r}, "
            "which adds the decay to its direction and not to the gradient"
        )
    if optimizer.schedule == "steps" and not optimizer.decay_at_epochs:
        raise ConfigError(
            "config field 'optimizer.schedule' is 'steps', which needs 'optimizer.decay_at_epochs'; "
            "'constant' is the schedule without"
        )
    if optimizer.warmup and optimizer.warmup_steps:
        raise ConfigError(
            f"config fields 'optimizer.warmup' ({optimizer.warmup}) and 'optimizer.warmup_steps' "
            f"({optimizer.warmup_steps}) are two lengths of one warm-up: one of them must be 0"
        )
    if optimizer.warmup_start and not (optimizer.warmup or optimizer.warmup_steps):
        raise ConfigError("config field 'optimizer.warmup_start' needs 'optimizer.warmup' or 'optimizer.warmup_steps'")
    if optimizer.final_learning_rate and optimizer.schedule not in ("cosine", "polynomial"):
        raise ConfigError(
            "config field 'optimizer.final_learning_rate' is for 'optimizer.schedule' 'cosine' and 'polynomial', not "
            f"{optimizer.schedule!r}"
        )
    if optimizer.final_learning_rate > optimizer.learning_rate:
        raise ConfigError(
            f"config field 'optimizer.final_learning_rate' ({optimizer.final_learning_rate}) must be at most "
            f"'optimizer.learning_rate' ({optimizer.learning_rate})"
        )
    if optimizer.polynomial_power != 1 and optimizer.schedule != "polynomial":
        raise ConfigError(
            "config field 'optimizer.polynomial_power' is for 'optimizer.schedule' 'polynomial', not "
            f"{optimizer.schedule!r}"
        )
