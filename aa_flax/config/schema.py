"""The one schema of a run: every field, its type, its default and what it means.

Config files build on `default_config()`, an `ml_collections.ConfigDict` made from these dataclasses; `resolve` turns
whatever a file and the command line made of it back into a checked `Config`, so that nothing else in the library reads
an untyped key.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import ml_collections

from aa_flax.config.checks import check
from aa_flax.config.values import ConfigError, as_type


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    name: str = "aa_wide_resnet28_10"
    options: dict[str, Any] = field(default_factory=dict)  # overrides of aa_flax.models.create_model
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"  # of the computation; parameters stay in param_dtype
    param_dtype: Literal["float32", "float64"] = "float32"
    init_from: str = ""  # .safetensors, .pth: what fits of these weights is where training starts; "" is at random
    init_source: Literal["aa_flax", "timm", "torchvision", "deit"] = "aa_flax"  # whose names that file has
    init_part: str = ""  # the network inside this one that the file is of, such as "backbone"; "" is all of this one
    init_zero_output: bool = False  # with init_from: output projections of attention that is new start at zero
    frozen: tuple[str, ...] = ()  # parts that stay as they are, such as ("stem", "bn", "stage1")


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on; names as in `aa_flax.data.load`."""

    name: str = "fashion_mnist_subset"
    data_dir: str = ""  # where prepared data sets lie; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets
    source_dir: str = ""  # folder with the official files, to prepare from
    train_split: str = "train"
    eval_split: str = "test"
    image_size: int = 0  # pixels of a side after cropping or resizing; 0 keeps the data set's own
    resize: Literal["", "squash", "center_crop"] = ""  # held-out images and photographs; "" is center_crop with
    # crop="resized", squash else: the whole image, whatever its aspect
    crop_fraction: float = 0.875  # of the centred part's sides, with center_crop
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # of held-out images and photographs
    crop: Literal["pad", "resized", "none"] = "pad"  # random crop after padding, or random resized crop
    crop_padding: int = 4  # pixels, with crop="pad"
    repeats: int = 1  # copies of each image in a batch, augmented apart; an epoch keeps its number of steps
    auto_augment: Literal["", "rand", "three"] = ""  # RandAugment or 3-Augment, on the host after the crop; "" is off
    rand_augment_operations: int = 2  # applied to each image
    rand_augment_magnitude: float = 9.0  # 10 is the end of the ranges in aa_flax.data.augment.rand_augment
    rand_augment_std: float = 0.0  # of the magnitude
    rand_augment_increasing: bool = False  # ranges in which a larger magnitude always changes an image more
    rand_augment_probability: float = 1.0  # that an operation is applied
    flip: bool = True  # left to right, with probability 1/2
    color_jitter: float = 0.0  # how far brightness, contrast and saturation may stray from 1, up to 1; 0 is off
    cutout: int = 0  # side in pixels of the square set to the mean; 0 is off
    random_erasing: float = 0.0  # probability that a box of the image is overwritten; 0 is off
    random_erasing_fill: Literal["noise", "zero"] = "noise"  # of each value N(0, 1) once normalised, or the mean
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix_probability: float = 0.5  # with both of these on, that a batch has cutmix and not mixup
    mean: tuple[float, ...] = ()  # of each channel in [0, 1]; () is the data set's own
    std: tuple[float, ...] = ()
    cache: bool = False  # decode once and keep in memory
    on_device: bool = False  # the training split lies on the devices and is cropped there; for small images
    fast_decode: bool = False  # training JPEGs in about half the time, to nearly the same pixels; needs aa_flax[fast]
    corrupt_budget: int = 0  # damaged training examples that each process may replace by the next one; 0 is strict
    num_threads: int = 2  # that read, decode and crop; 1 is fastest for small cached images


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move; defaults are the recipe of Bello et al. (2019), section 4.1, for augmented networks."""

    name: Literal["sgd", "rmsprop", "lamb"] = "sgd"
    learning_rate: float = 0.2  # peak
    schedule: Literal["cosine", "constant", "steps", "exponential"] = "cosine"  # after a linear warm-up from 0
    warmup: float = 0.05  # fraction of the run
    decay_factor: float = (
        0.1  # what each drop of "steps" or "exponential" multiplies by; 0.97 for the latter in MnasNet
    )
    decay_at_epochs: tuple[float, ...] = (30.0, 60.0, 80.0, 90.0)  # drops of "steps", from the start of the run
    decay_every_epochs: float = 2.4  # between drops of "exponential", the first this long after the start of the run
    momentum: float = 0.9  # with "sgd" and "rmsprop"
    nesterov: bool = False  # with "sgd"
    rms_decay: float = 0.9  # of the mean square, with name="rmsprop"
    epsilon: float = 1e-3  # added to the mean square inside the root, with name="rmsprop"
    beta1: float = 0.9  # of the mean gradient, with name="lamb"
    beta2: float = 0.999  # of the mean square, with name="lamb"
    adam_epsilon: float = 1e-6  # added to the root of the mean square, with name="lamb"
    weight_decay: float = 5e-4
    weight_decay_mode: Literal["l2", "decoupled"] = "l2"  # into the gradient, or beside it, times the learning rate
    weight_decay_exclude: tuple[str, ...] = (  # ends of dotted names
        *("bias", "scale", "rel_height", "rel_width"),
        *("gamma", "gamma1", "gamma2", "tokens", "gate_scale"),
    )
    clip_norm: float = 0.0  # largest global norm of the gradient; 0 is off
    accumulation_steps: int = 1  # pieces in which a batch goes through the network
    ema_decay: float = 0.0  # of parameters and batch statistics, used to evaluate; 0 is off


@dataclass(frozen=True)
class TaskConfig:
    """What the network is trained for."""

    name: str = "classification"  # or module:Class
    options: dict[str, Any] = field(default_factory=dict)  # the task's own, see its dataclass of options


@dataclass(frozen=True)
class ParallelConfig:
    """How the work is spread over devices; but for rounding, only `batch_norm_groups` changes what is computed."""

    fsdp: bool = False  # parameters, optimiser state and averages are split over the devices instead of copied
    model_devices: int = 1  # devices that share the attention heads of the same images; divides their number
    batch_norm_groups: int = 1  # equal parts of a batch that batch norm treats as batches; 1 is the global batch


@dataclass(frozen=True)
class Config:
    """One training run."""

    label: str = ""  # what tables call the run; "" is the model's name
    seed: int = 0
    epochs: int = 500
    batch_size: int = 256  # of all devices together
    eval_batch_size: int = 256
    eval_every_epochs: int = 1
    log_every_steps: int = 20
    checkpoint_every_epochs: int = 1
    checkpoint_every_minutes: float = 10.0  # besides, at the end of a log window; 0 is off
    keep_checkpoints: int = 2
    max_nonfinite_steps: int = 10  # that are left out for an infinite or NaN loss or gradient; one more ends the run
    hang_minutes: float = 30.0  # without progress, after which the process ends with exit code 76; 0 is off
    peer_timeout_seconds: int = 60  # without an answer of another process, after which this one ends with 76
    profile_steps: tuple[int, ...] = ()  # (first, last): a trace of the steps after the first goes to DIR/profile
    deterministic: bool = False  # the same result every time on GPUs too, see aa_flax.training.determinism
    stop_after_epoch: int = 0  # end early, with the schedule unchanged; 0 is off
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


MAY_CHANGE_ON_RESUME = frozenset(
    {
        "label",
        "stop_after_epoch",
        "eval_batch_size",
        "checkpoint_every_minutes",
        "keep_checkpoints",
        "hang_minutes",
        "peer_timeout_seconds",
        "profile_steps",
        "data.data_dir",
        "data.source_dir",
        "data.cache",
        "data.corrupt_budget",
        "data.num_threads",
        "max_nonfinite_steps",
        "parallel.fsdp",
        "parallel.model_devices",
    }
)
"""Fields that change nothing in what a run computes but, the last two, its rounding; other changes are refused."""


MOVED = {
    "optimizer.loss": "task.options.loss",
    "optimizer.binary_targets": "task.options.binary_targets",
    "optimizer.label_smoothing": "task.options.label_smoothing",
}
"""Fields that have another name now, which errors say."""


MAY_DIFFER = frozenset({"label", "data.data_dir", "data.source_dir", "data.cache", "data.num_threads"})
"""Fields that the processes of one run may each have another value of."""


def default_config() -> ml_collections.ConfigDict:
    """A locked ConfigDict of all defaults; `model.options` and `task.options` take any key."""
    config = ml_collections.ConfigDict(dataclasses.asdict(Config())).lock()
    config.model.options.unlock()
    config.task.options.unlock()
    return config


def field_names(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted name of every field and its type."""
    names: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            names |= field_names(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            names[prefix + name] = kind
    return names


def flatten(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Dotted names to values; `model.options` and `task.options` stay one value each."""
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and name != "options":
            flat |= {f"{name}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def resolve(config: Any) -> Config:
    """A checked `Config` from a ConfigDict or nested dict; fields left out keep their defaults.

    Raises:
        ConfigError: an unknown field (with the nearest known one), a wrong type, or values that contradict.
    """
    if not isinstance(config, dict | ml_collections.ConfigDict):
        raise ConfigError(
            f"a config must be a ConfigDict or a dictionary, got {config!r}; does get_config() return it?"
        )
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    resolved = _build(Config, tree, "")
    check(resolved, flatten(resolved))
    return resolved


def unknown_field(name: str) -> ConfigError:
    """The error for a field that does not exist, naming what it is called now or the nearest one that does."""
    if name in MOVED:
        return ConfigError(f"config field {name!r} is {MOVED[name]!r} now")
    known = list(field_names())
    last = name.rsplit(".", 1)[-1]
    by_last_part = {k.rsplit(".", 1)[-1]: k for k in known}
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
        by_last_part[m] for m in difflib.get_close_matches(last, list(by_last_part), n=1, cutoff=0.6)
    ]
    hint = f"; did you mean {matches[0]!r}?" if matches else f"; known fields: {', '.join(known)}"
    return ConfigError(f"unknown config field {name!r}{hint}")


def _build(schema: Any, tree: dict[str, Any], prefix: str) -> Any:
    hints = get_type_hints(schema)
    values = {}
    for name, value in tree.items():
        if name not in hints:
            raise unknown_field(prefix + name)
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ConfigError(f"config field {prefix + name!r} must be a group of fields, got {value!r}")
            values[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            values[name] = as_type(prefix + name, hints[name], value)
    return schema(**values)
