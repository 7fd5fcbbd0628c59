"""Attention-augmented convolutional networks in JAX and Flax NNX.

The tree reads like the papers: `aa_flax.ops` holds the mathematics as pure functions, `aa_flax.layers` the modules
that own parameters, `aa_flax.models` the networks. `aa_flax.weights` fills them from PyTorch's weights, and
`aa_flax.data`, `aa_flax.training`, `aa_flax.evaluation` and `aa_flax.analysis` train, score and explain them.
Sub-packages load at first use, so `import aa_flax` is cheap.
"""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

_SUBPACKAGES = ("analysis", "data", "evaluation", "layers", "models", "ops", "training", "weights")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"aa_flax.{name}")
    raise AttributeError(f"module 'aa_flax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
