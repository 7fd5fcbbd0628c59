"""Attention-augmented convolutional networks in JAX and Flax NNX.

    predictor = aa_flax.load("runs/mine")  # a run, a file of weights with its card, a folder of a hub
    predictor("photo.jpg").name
    model = aa_flax.create_model("aa_resnet50", rngs=nnx.Rngs(0))  # any of aa_flax.list_models()

The tree reads like the papers: `aa_flax.ops` holds the mathematics as pure functions, `aa_flax.layers` the modules
that own parameters, `aa_flax.models` the networks. `aa_flax.weights` fills them from PyTorch's weights, and
`aa_flax.data`, `aa_flax.training`, `aa_flax.evaluation` and `aa_flax.analysis` train, score and explain them;
`aa_flax.inference` puts them to work and `aa_flax.hub` shares them. Everything loads at first use, so `import aa_flax`
is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aa_flax.inference.loading import load as load
    from aa_flax.models.registry import create_model as create_model
    from aa_flax.models.registry import list_models as list_models

__version__ = "0.2.0.dev0"

_SUBPACKAGES = (
    "analysis",
    "data",
    "evaluation",
    "finetuning",
    "hub",
    "inference",
    "layers",
    "models",
    "ops",
    "training",
    "weights",
)
_HOME = {"create_model": "models", "list_models": "models", "load": "inference"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"aa_flax.{_HOME[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"aa_flax.{name}")
    raise AttributeError(f"module 'aa_flax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBPACKAGES])
