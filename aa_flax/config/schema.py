"""Schema of a run's config: every field with its type, default and meaning.

Config files start from `default_config()`, an `ml_collections.ConfigDict` made from these dataclasses. `resolve`
converts the ConfigDict that a file and the command line have changed to a checked `Config`, so that no other part of
the library reads untyped keys.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import ml_collections

from aa_flax.config.checks import check
from aa_flax.config.data import DataConfig
from aa_flax.config.fields import Rules, built, field, rules_of
from aa_flax.config.moved import MOVED
from aa_flax.config.optimizer import OptimizerConfig
from aa_flax.config.values import ConfigError

Dtype = Literal["float32", "bfloat16", "float64"]
"""The types of a computation."""


@dataclass(frozen=True)
class ModelConfig:
    """The network that is trained, and the weights that it starts from."""

    name: str = field("aa_wide_resnet28_10", "name of the network, one of aa_flax.models.list_models()")
    options: dict[str, Any] = field(
        {},
        "options of the network, --config.model.options.NAME=VALUE; aa_flax.models.model_options(NAME) has them",
    )
    dtype: Dtype = field("float32", "type of the computation")
    param_dtype: Literal["float32", "float64"] = field("float32", "type of the parameters")
    init_from: str = field(
        "",
        "safetensors or PyTorch file, folder of a hub or run directory whose weights, where they fit, are the first "
        'ones; "" draws all at random',
    )
    init_source: Literal["aa_flax", "timm", "torchvision", "deit"] = field(
        "aa_flax", "library whose names that file uses"
    )
    init_key: str = field(
        "",
        'entry of that file that is the state dict, if it holds several, such as "state_dict_ema"; of a run directory '
        '"best" or "last", which is meant without it',
    )
    init_adapt_stem: bool = field(False, "make the first convolution of that file for the channels of the images")
    init_part: str = field("", 'network in this one that the file is of, such as "backbone"; "" is all of this one')
    init_zero_output: bool = field(False, "output projections of attention that is not in that file start at zero")
    frozen: tuple[str, ...] = field((), 'parts that stay as in that file, such as ("stem", "bn", "stage1")')
    frozen_epochs: int = field(0, "epochs after which the frozen parts learn too; 0 is never", at_least=0)


@dataclass(frozen=True)
class TaskConfig:
    """The task that the network is trained for."""

    name: str = field("classification", "name of the task, or module:Class")
    options: dict[str, Any] = field({}, "options of the task, see its dataclass of options")


@dataclass(frozen=True)
class ParallelConfig:
    """The distribution over devices; apart from rounding, only `batch_norm_groups` changes what is computed."""

    fsdp: bool = field(
        False, "split parameters, optimiser state and averages over the devices, not copy them", may_change=True
    )
    model_devices: int = field(
        1,
        "devices that share the attention heads of the same images; divides their number",
        at_least=1,
        may_change=True,
    )
    batch_norm_groups: int = field(
        1, "equal parts of a batch that batch norm treats as batches; 1 is the global batch", at_least=1
    )


def _first_before_last(steps: tuple[int, ...]) -> bool:
    return not steps or (len(steps) == 2 and 0 < steps[0] < steps[1])


@dataclass(frozen=True)
class Config:
    """The config of one training run."""

    label: str = field("", 'what tables call the run; "" is the name of the network', may_change=True, may_differ=True)
    seed: int = field(
        0, "decides the first weights, the order of examples and all random draws", at_least=0, below=2**32
    )
    epochs: int = field(500, "passes over the training split", at_least=1)
    batch_size: int = field(256, "images of a batch, of all devices together", at_least=1)
    eval_batch_size: int = field(
        256, "images of a batch in evaluation, of all devices together", at_least=1, may_change=True
    )
    eval_every_epochs: int = field(1, "epochs between evaluations", at_least=1)
    log_every_steps: int = field(20, "steps between rows of the log", at_least=1)
    checkpoint_every_epochs: int = field(1, "epochs between checkpoints", at_least=1)
    checkpoint_every_minutes: float = field(
        10.0,
        "minutes between further checkpoints, each at the end of a log window; 0 is off",
        at_least=0,
        may_change=True,
    )
    keep_checkpoints: int = field(2, "how many of the newest checkpoints stay", at_least=1, may_change=True)
    keep_best: bool = field(
        True,
        "the checkpoint of the highest held-out score stays besides, the first of equal ones; it is saved after its "
        "evaluation if that epoch had none",
        may_change=True,
    )
    max_nonfinite_steps: int = field(
        10,
        "steps that are left out for an infinite or NaN loss or gradient; one more ends the run",
        at_least=0,
        may_change=True,
    )
    hang_minutes: float = field(
        30.0,
        "minutes without progress after which the process ends with exit code 76; 0 is off",
        at_least=0,
        may_change=True,
    )
    peer_timeout_seconds: int = field(
        60,
        "seconds without an answer of another process after which this one ends with 76",
        at_least=1,
        may_change=True,
    )
    profile_steps: tuple[int, ...] = field(
        (),
        "(first, last): a trace of the steps after the first goes to DIR/profile",
        accepts=("(first, last) with 0 < first < last", _first_before_last),
        may_change=True,
    )
    deterministic: bool = field(
        False, "compute the same result every time on GPUs too, see aa_flax.training.determinism"
    )
    stop_after_epoch: int = field(
        0, "epoch after which to stop, early, with the schedule unchanged; 0 is off", at_least=0, may_change=True
    )
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)


def field_names(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Return the type of every field by its dotted name."""
    names: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            names |= field_names(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            names[prefix + name] = kind
    return names


def field_rules(schema: Any = Config, prefix: str = "") -> dict[str, Rules]:
    """Return the rules of every field by its dotted name."""
    rules = {prefix + name: each for name, each in rules_of(schema).items()}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            rules |= field_rules(kind, f"{prefix}{name}.")
    return rules


MAY_CHANGE_ON_RESUME = frozenset(name for name, rules in field_rules().items() if rules.may_change)
"""Fields that may change when a run resumes, because they do not affect what it computes, apart from rounding."""

MAY_DIFFER = frozenset(name for name, rules in field_rules().items() if rules.may_differ)
"""Fields that may have different values in the processes of one run."""


def default_config() -> ml_collections.ConfigDict:
    """Return a locked ConfigDict of all defaults; `model.options` and `task.options` accept any key."""
    config = ml_collections.ConfigDict(dataclasses.asdict(Config()))
    # A ConfigDict would keep this field, which has one number or two, to the type of its default.
    config.data.image_size = ml_collections.FieldReference(Config().data.image_size, field_type=object)
    config.lock()
    config.model.options.unlock()
    config.task.options.unlock()
    return config


def flatten(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the values by dotted names; `model.options` and `task.options` stay one dictionary each."""
    tree = config if isinstance(config, dict) else dataclasses.asdict(config)
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and name != "options":
            flat |= {f"{name}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def resolve(config: Any) -> Config:
    """Return a checked `Config` from a ConfigDict or nested dict; missing fields keep their defaults.

    Raises:
        ConfigError: an unknown field (the message has the nearest known one), a wrong type, a value that its field does
            not accept, or values that contradict each other.
    """
    if not isinstance(config, dict | ml_collections.ConfigDict):
        raise ConfigError(
            f"a config must be a ConfigDict or a dictionary, got {config!r}; does get_config() return it?"
        )
    resolved = built(Config, _plain(config), "", unknown_field)
    check(resolved)
    return resolved


def _plain(config: Any) -> Any:
    """Return a ConfigDict, or a dictionary with some inside, as dictionaries only."""
    if isinstance(config, ml_collections.ConfigDict):
        return config.to_dict()
    return {name: _plain(value) for name, value in config.items()} if isinstance(config, dict) else config


_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "ema": "optimizer.ema_decay",
    "model_ema": "optimizer.ema_decay",
    "clip_grad": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "accum_steps": "optimizer.accumulation_steps",
    "num_epochs": "epochs",
    "dataset": "data.name",
    "img_size": "data.image_size",
    "num_workers": "data.num_threads",
    "random_seed": "seed",
    "arch": "model.name",
}
"""Names of fields in other libraries and their examples (timm, torchvision, Flax), and the field of this config."""


def unknown_field(name: str) -> ConfigError:
    """Return the error for a field that does not exist, with its new name if it moved, else the nearest known field.

    For the name of a group, the error lists the fields of the group.
    """
    for old, moved in MOVED.items():
        if name in (old, old.rsplit(".", 1)[-1]):  # errors of config files have only the last part of a name
            return ConfigError(f"config field {old!r} is {moved.name!r} now")
    known = list(field_names())
    if inside := [each for each in known if each.startswith(f"{name}.")]:
        return ConfigError(f"{name!r} is a group of config fields: {', '.join(inside)}")
    group, _, last = name.rpartition(".")
    if last in _ELSEWHERE:
        return ConfigError(f"unknown config field {name!r}; it is {_ELSEWHERE[last]!r} here")
    beside = [each for each in known if each.rpartition(".")[0] == group]
    for fields, cutoff in ((known, 1.0), (beside, 0.6), (known, 0.6)):
        by_last_part = {each.rpartition(".")[2]: each for each in fields}
        if matches := difflib.get_close_matches(last, list(by_last_part), n=1, cutoff=cutoff):
            return ConfigError(f"unknown config field {name!r}; did you mean {by_last_part[matches[0]]!r}?")
    known = beside if group and beside else known
    return ConfigError(f"unknown config field {name!r}; known fields: {', '.join(known)}")
