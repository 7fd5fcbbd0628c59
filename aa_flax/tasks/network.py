"""What tasks share about their networks: how the config's is built, and on which data a trained one can be scored."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.datasets import Dataset
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.literal import quoted
from aa_flax.models import create_model


def build_network(config: Config, preprocessing: Preprocessing, num_classes: int, rngs: nnx.Rngs, **more: Any) -> Any:
    """Return the untrained network of a config for images as they are prepared; `more` are further options of it.

    Raises:
        TypeError, ValueError: options that the network does not have, or cannot have together.
    """
    model = config.model
    return create_model(
        model.name,
        num_classes=num_classes,
        image_size=preprocessing.image_size,
        in_channels=preprocessing.channels,
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.dtype(model.param_dtype),
        rngs=rngs,
        **model.options,
        **more,
    )


def require_same_classes(dataset: Dataset, preprocessing: Preprocessing) -> None:
    """Raise ConfigError unless the classes of a data set are those that a network was trained on, in their order."""
    trained, found = preprocessing.class_names, dataset.class_names
    if found != trained:
        raise ConfigError(
            f"{dataset.name} has the classes {quoted(found, 5)}; the run was trained on {quoted(trained, 5)}"
        )
