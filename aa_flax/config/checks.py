"""What no run can have: values out of range, and values that contradict each other."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from aa_flax.config.values import ConfigError

_Range = tuple[str, Callable[[Any], bool], str]
_RANGES: tuple[_Range, ...] = (
    (
        "at least 1",
        lambda v: v >= 1,
        """epochs batch_size eval_batch_size eval_every_epochs log_every_steps checkpoint_every_epochs keep_checkpoints
        peer_timeout_seconds optimizer.accumulation_steps data.num_threads data.repeats data.rand_augment_operations
        parallel.model_devices parallel.batch_norm_groups""",
    ),
    (
        "at least 0",
        lambda v: v >= 0,
        """seed max_nonfinite_steps stop_after_epoch checkpoint_every_minutes hang_minutes data.corrupt_budget
        data.image_size data.crop_padding data.cutout data.mixup data.cutmix data.rand_augment_magnitude
        data.rand_augment_std optimizer.learning_rate optimizer.weight_decay optimizer.clip_norm""",
    ),
    (
        "in [0, 1)",
        lambda v: 0 <= v < 1,
        "optimizer.warmup optimizer.momentum optimizer.rms_decay optimizer.beta1 optimizer.beta2 optimizer.ema_decay",
    ),
    ("in [0, 1]", lambda v: 0 <= v <= 1, "data.color_jitter data.random_erasing data.rand_augment_probability"),
    ("in (0, 1)", lambda v: 0 < v < 1, "data.cutmix_probability"),
    ("in (0, 1]", lambda v: 0 < v <= 1, "optimizer.decay_factor data.crop_fraction"),
    ("above 0", lambda v: v > 0, "optimizer.decay_every_epochs optimizer.epsilon optimizer.adam_epsilon"),
    ("below 2**32", lambda v: v < 2**32, "seed"),
)


def check(config: Any, flat: dict[str, Any]) -> None:
    """ConfigError, in one line, for the first thing wrong with a `Config`; `flat` has its values by dotted name."""
    for accepted, fits, names in _RANGES:
        for name in names.split():
            if not fits(flat[name]):
                raise ConfigError(f"config field {name!r} must be {accepted}, got {flat[name]!r}")
    steps = config.profile_steps
    if steps and not (len(steps) == 2 and 0 < steps[0] < steps[1]):
        raise ConfigError(f"config field 'profile_steps' must be (first, last) with 0 < first < last, got {steps}")
    _check_batch(config)
    _check_data(config.data)
    _check_optimizer(config.optimizer)
    if not config.model.init_from:
        for field in dataclasses.fields(config.model):
            meaningless = field.name in ("init_zero_output", "init_source", "init_part", "frozen")
            if meaningless and getattr(config.model, field.name) != field.default:
                raise ConfigError(f"config field 'model.{field.name}' needs 'model.init_from'")


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
    if data.crop == "resized" and not data.image_size:
        raise ConfigError("config field 'data.crop' is 'resized', which needs 'data.image_size'")
    if data.fast_decode and data.cache:
        raise ConfigError(
            "config fields 'data.fast_decode' and 'data.cache' exclude each other: the cache is decoded once"
        )
    on_host = {
        "data.crop": data.crop == "resized",
        "data.auto_augment": data.auto_augment,
        "data.repeats": data.repeats > 1,
    }
    on_host |= {"data.fast_decode": data.fast_decode}
    if data.on_device and any(on_host.values()):
        excluded = ", ".join(repr(name) for name, given in on_host.items() if given)
        raise ConfigError(f"config field 'data.on_device' excludes {excluded}, which work on the host, image by image")
    if len(data.mean) != len(data.std):
        raise ConfigError(f"config fields 'data.mean' and 'data.std' differ in length: {data.mean} and {data.std}")
    if min((*data.std, 1.0)) <= 0:
        raise ConfigError(f"config field 'data.std' must be positive, got {data.std}")


def _check_optimizer(optimizer: Any) -> None:
    if optimizer.nesterov and not optimizer.momentum:
        raise ConfigError("config field 'optimizer.nesterov' needs 'optimizer.momentum' above 0")
    if optimizer.nesterov and optimizer.name != "sgd":
        raise ConfigError(f"config field 'optimizer.nesterov' is for 'optimizer.name' 'sgd', not {optimizer.name!r}")
    if optimizer.name == "lamb" and optimizer.weight_decay and optimizer.weight_decay_mode == "l2":
        raise ConfigError(
            "config field 'optimizer.weight_decay_mode' must be 'decoupled' with 'optimizer.name' 'lamb', which adds "
            "the decay to its direction and not to the gradient"
        )
    drops = (0.0, *optimizer.decay_at_epochs)
    if any(later <= earlier for earlier, later in itertools.pairwise(drops)):
        raise ConfigError(
            f"config field 'optimizer.decay_at_epochs' must be above 0 and increase, got {optimizer.decay_at_epochs}"
        )
    if optimizer.schedule == "steps" and not optimizer.decay_at_epochs:
        raise ConfigError(
            "config field 'optimizer.schedule' is 'steps', which needs 'optimizer.decay_at_epochs'; "
            "'constant' is the schedule without"
        )
