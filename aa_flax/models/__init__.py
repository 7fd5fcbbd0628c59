"""Networks: they wire layers and own no mathematics."""

from aa_flax.models.registry import create_model, list_models
from aa_flax.models.wide_resnet import WideResNet  # importing a family registers its names

__all__ = ["WideResNet", "create_model", "list_models"]
