"""The weights that a run starts from: of a file, of the folder of a hub, or of another run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from aa_flax.config.schema import Config, ConfigError
from aa_flax.runs.birth import is_run
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.training.trained import load_model
from aa_flax.weights import Report, WeightsError, init_from_plain, read_state_dict
from aa_flax.weights.arrays import flat_arrays
from aa_flax.weights.card import described_by
from aa_flax.weights.state_dicts import StateDict

OF_A_HUB = "model.safetensors"
"""The name of the file of weights in the folder of a hub."""


def take_weights(model: nnx.Module, config: Config, names: Sequence[str] = ()) -> Report:
    """Fill the network in place with the weights that the config names; raise ConfigError where they do not fit.

    Args:
        model: the network.
        config: of the run.
        names: as of `aa_flax.weights.init_from_plain`.
    """
    fields = config.model
    try:
        return init_from_plain(
            model,
            first_weights(fields.init_from, fields.init_key),
            names=names,
            source=fields.init_source,
            zero_output=fields.init_zero_output,
            init_part=fields.init_part,
            adapt_stem=fields.init_adapt_stem,
        )
    except WeightsError as error:
        summary, *problems = str(error).split("\n")
        shown = ", ".join(line.strip() for line in problems[:3]) + (", ..." if len(problems) > 3 else "")
        raise ConfigError(f"config field 'model.init_from': {summary} {shown}".strip()) from error
    except (RunDirectoryError, CheckpointError) as error:
        raise ConfigError(f"config field 'model.init_from': {error}") from error


def first_weights(place: str, key: str = "") -> StateDict:
    """Return the weights at a place, with a card that says of which network and which names they are, if that is known.

    Args:
        place: a file as `aa_flax.weights.read_state_dict` takes it, the folder of a hub, or a run directory, of which
            the averaged weights are taken where the run kept them.
        key: of a file, as of `read_state_dict`; of a run the checkpoint: "last", "best" or its step, "last" for "".

    Raises:
        WeightsError: the file is missing, damaged or of another form; `key` names no checkpoint.
        RunDirectoryError, CheckpointError: the run has no such checkpoint, or it is damaged.
    """
    path = Path(place).expanduser()
    if not path.is_dir() or not is_run(path):
        return read_state_dict(path / OF_A_HUB if (path / OF_A_HUB).is_file() else path, key=key)
    if key and key not in ("last", "best") and not key.isdecimal():
        raise WeightsError(f"{path}: key {key!r} names no checkpoint of a run; expected last, best or a step")
    directory = RunDirectory(path)
    if key.isdecimal():
        model, step = load_model(directory, int(key))
    else:
        model, step = load_model(directory, "best" if key == "best" else "last")
    state = StateDict({name: np.asarray(array) for name, array in flat_arrays(model).items()})
    state.notes = (f"step {step} of the run {path}",)
    state.card = described_by(model, directory.read_preprocessing().names)
    return state
