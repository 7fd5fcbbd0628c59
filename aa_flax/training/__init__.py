"""Training: configs, the step, the loop and what a run leaves on disk.

Names load at first use, so that `functional` alone needs neither Orbax nor Grain.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aa_flax.config.named import named_config
    from aa_flax.config.schema import Config, ConfigError, default_config, resolve
    from aa_flax.models.functional import functional
    from aa_flax.runs.directory import RunDirectory
    from aa_flax.runs.metrics import read_metrics
    from aa_flax.training.initial import build_model
    from aa_flax.training.loop import Outcome, train
    from aa_flax.training.trained import load_model

_HOMES = {
    "Config": "config.schema",
    "ConfigError": "config.schema",
    "Outcome": "training.loop",
    "RunDirectory": "runs.directory",
    "build_model": "training.initial",
    "default_config": "config.schema",
    "functional": "models.functional",
    "load_model": "training.trained",
    "named_config": "config.named",
    "read_metrics": "runs.metrics",
    "resolve": "config.schema",
    "train": "training.loop",
}

__all__ = [
    "Config",
    "ConfigError",
    "Outcome",
    "RunDirectory",
    "build_model",
    "default_config",
    "functional",
    "load_model",
    "named_config",
    "read_metrics",
    "resolve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aa_flax.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aa_flax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
