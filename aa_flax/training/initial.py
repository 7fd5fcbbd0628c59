"""The network that a run starts with."""

import jax
from flax import nnx

from aa_flax.config.schema import Config, ConfigError
from aa_flax.layers.norm import set_groups
from aa_flax.models.registry import NO_OPTIONS
from aa_flax.tasks import Task
from aa_flax.training.freezing import check_parts, freeze_statistics


def build_model(config: Config, task: Task) -> nnx.Module:
    """Return the untrained network of a config, its frozen parts marked.

    Raises:
        ConfigError: the options of the network do not fit, or float64 is asked for and not enabled in JAX.
    """
    if "float64" in (config.model.dtype, config.model.param_dtype) and not jax.config.read("jax_enable_x64"):
        raise ConfigError(
            "config field 'model.dtype' or 'model.param_dtype' is 'float64', which needs JAX_ENABLE_X64=1"
        )
    if taken := [name for name in NO_OPTIONS if name in config.model.options]:
        raise ConfigError(f"config field 'model.options.{taken[0]}' is no option of a network: {NO_OPTIONS[taken[0]]}")
    try:
        model = task.build(nnx.Rngs(config.seed))
        check_parts(model, config.model.frozen)
        if not config.model.frozen_epochs:  # else `Program` has them wait
            freeze_statistics(model, config.model.frozen)
        set_groups(model, config.parallel.batch_norm_groups)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config group 'model': {error}") from error
    return model
