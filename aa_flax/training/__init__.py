"""Training: configs, the step, the loop and what a run leaves on disk.

Names load at first use, so that `functional` alone needs neither Orbax nor Grain.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aa_flax.training.config import Config, ConfigError, default_config, resolve
    from aa_flax.training.initial import build_model
    from aa_flax.training.loop import Outcome, train
    from aa_flax.training.metrics import read_metrics
    from aa_flax.training.pure import functional
    from aa_flax.training.run_directory import RunDirectory

_HOMES = {
    "Config": "config",
    "ConfigError": "config",
    "Outcome": "loop",
    "RunDirectory": "run_directory",
    "build_model": "initial",
    "default_config": "config",
    "functional": "pure",
    "read_metrics": "metrics",
    "resolve": "config",
    "train": "loop",
}

__all__ = [
    "Config",
    "ConfigError",
    "Outcome",
    "RunDirectory",
    "build_model",
    "default_config",
    "functional",
    "read_metrics",
    "resolve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aa_flax.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aa_flax.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
