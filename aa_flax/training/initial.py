"""The network that a run starts with."""

from collections.abc import Sequence
from pathlib import Path

import jax
from flax import nnx

from aa_flax.config.schema import Config, ConfigError
from aa_flax.layers.norm import set_groups
from aa_flax.models.registry import NO_OPTIONS
from aa_flax.tasks import Task
from aa_flax.training.freezing import freeze_statistics
from aa_flax.weights import Report, WeightsError, init_from_plain, read_state_dict


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
        freeze_statistics(model, config.model.frozen)
        set_groups(model, config.parallel.batch_norm_groups)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config group 'model': {error}") from error
    return model


def take_weights(model: nnx.Module, config: Config, names: Sequence[str] = ()) -> Report:
    """Fill the network in place from the file that the config names; raise ConfigError where it does not fit.

    Args:
        model: the network.
        config: of the run.
        names: as of `aa_flax.weights.init_from_plain`.
    """
    file = Path(config.model.init_from)
    try:
        return init_from_plain(
            model,
            read_state_dict(file, key=config.model.init_key),
            names=names,
            source=config.model.init_source,
            zero_output=config.model.init_zero_output,
            init_part=config.model.init_part,
            adapt_stem=config.model.init_adapt_stem,
        )
    except WeightsError as error:
        summary, *problems = str(error).split("\n")
        shown = ", ".join(line.strip() for line in problems[:3]) + (", ..." if len(problems) > 3 else "")
        raise ConfigError(f"config field 'model.init_from': {summary} {shown}".strip()) from error
