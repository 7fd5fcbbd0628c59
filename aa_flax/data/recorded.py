"""The data set of a run that has moved to another machine or folder."""

import dataclasses
import os
from pathlib import Path

from aa_flax.config.data import DataConfig
from aa_flax.data.datasets import is_prepared
from aa_flax.data.errors import DataError
from aa_flax.data.prepared import find_prepared, resolve_data_dir
from aa_flax.data.sets.own import EMBEDDED, stored_name

_DEFAULT = "~/tensorflow_datasets"
DATA_DIR = "Folder of prepared data; $TFDS_DATA_DIR, or else the folder that the run has recorded, if not given."
"""The help of the flag --data_dir, for commands that need the data of a run."""


def found_again(fields: DataConfig, data_dir: str = "") -> DataConfig:
    """Return the fields that a run has recorded of its data, with the folder in which the data lies now.

    That is `data_dir` if it is given, or else the first of $TFDS_DATA_DIR and the recorded folder that has the data
    prepared. Data that comes with the library is prepared in the default folder where the recorded one is gone.

    Args:
        fields: the recorded fields; "" as their folder stands for the default one.
        data_dir: the only folder to look into, whatever was recorded; "" is none.

    Raises:
        DataError: the data is not prepared there; the message names all three folders.
    """
    variable, recorded = os.environ.get("TFDS_DATA_DIR", ""), fields.data_dir or _DEFAULT
    if fields.name in EMBEDDED and not Path(recorded).is_dir():
        recorded = _DEFAULT
    folders = [folder for folder in ([data_dir] if data_dir else [variable, recorded]) if folder]
    if fields.name in EMBEDDED:  # it can be prepared anywhere; where it is prepared already comes first
        there = [folder for folder in folders if find_prepared(stored_name(fields.name), resolve_data_dir(folder))]
        return dataclasses.replace(fields, data_dir=(there or folders)[0])
    for folder in folders:
        if is_prepared(fields.name, folder):
            return dataclasses.replace(fields, data_dir=folder)
    of_three = {
        "--data_dir": data_dir or "not given",
        "$TFDS_DATA_DIR": variable or "not set",
        "the folder that the run has recorded": recorded,
    }
    named = ", ".join(f"{name} ({value})" for name, value in of_three.items())
    ignored = "; the first is given, so that only there it was looked for" if data_dir else ""
    raise DataError(f"{fields.name} is not prepared in any of {named}{ignored}")
