"""Where a trained network lies: the directory of a run, or a file of weights with its card, alone or in a hub's folder.

Each can be asked for its config, its preprocessing and its result before any weights are read.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from aa_flax.config.schema import Config
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.inference.about import About, Given
from aa_flax.inference.repository import CONFIG_NAME, PREFIX, WEIGHTS_NAME, fetched, repository_of
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.metrics import read_metrics
from aa_flax.runs.paths import RunPath, run_path
from aa_flax.tasks import make_task
from aa_flax.tasks.contract import SCORES
from aa_flax.training.trained import best_step, load_model
from aa_flax.weights import WeightsError
from aa_flax.weights import load as load_weights
from aa_flax.weights.card import IN_HEADER, read_card

Checkpoint = int | Literal["last", "best"]
"""Which checkpoint of a run, as `aa_flax.training.load_model` takes it."""


@dataclass(frozen=True)
class OfRun(RunDirectory):
    """The directory of a run, and which of its checkpoints is meant."""

    checkpoint: Checkpoint = "last"

    def read_model(self) -> tuple[nnx.Module, int]:
        """Return the network of the checkpoint, and its step."""
        return load_model(self, self.checkpoint)

    def read_result(self) -> dict[str, Any] | None:
        """Return the result of the run; of another checkpoint than the last, with the scores that this one got."""
        result = super().read_result()
        if self.checkpoint == "last":
            return result
        step: int | None = None if self.checkpoint == "best" else self.checkpoint
        if step is None:
            step = best_step(self, make_task(self.read_config(), self.read_preprocessing()))
        rows = [row for row in read_metrics(self.log) if row["split"] == "eval" and row["step"] == step]
        found = {name: value for name, value in (result or {}).items() if name in SCORES}
        for row in rows[-1:]:
            found |= {name: value for name, value in row.items() if name not in SCORES}
            found |= {"epochs": row["epoch"]} if "epoch" in row else {}
        return found or None


class OfFile:
    """A safetensors file with its card."""

    def __init__(self, file: Path, given: Given | None = None) -> None:
        """Take the file, and what the caller says that its card does not.

        Raises:
            WeightsError: its card is missing or damaged; what is said is on the card, or nobody says it.
        """
        self.file = file.expanduser()
        if self.file.suffix != ".safetensors":
            raise WeightsError(
                f"{self.file}: expected a run directory, a folder of a hub or a .safetensors file of this library; "
                "`aa_flax.weights import` makes one from PyTorch's, without running what a pickle names"
            )
        if not self.file.is_file():
            raise WeightsError(f"{self.file}: no such file")
        self.card = read_card(self.file)
        self._given = given or Given()

    @functools.cached_property
    def about(self) -> About:
        """What is known of the network."""
        if (about := About.from_card(self.file, self.card)) is None:
            return self._given.about(str(self.file), self.card)
        if said := self._given.said:
            raise WeightsError(
                f"{self.file}: its card says how the network sees photographs; leave out {', '.join(said)}"
            )
        return about

    def read_config(self) -> Config:
        """Return the config that the card has."""
        return self.about.config

    def read_preprocessing(self) -> Preprocessing:
        """Return what the network expects of a photograph."""
        return self.about.preprocessing

    def read_result(self) -> Mapping[str, Any] | None:
        """Return the result of the run that trained it, without tables; None if that was not finished."""
        return self.about.result or None

    def read_model(self) -> tuple[nnx.Module, int | None]:
        """Return the network, and the step of training that its weights are of, if the card has one.

        Raises:
            WeightsError: the file is damaged, or its arrays are not those of the network that its card describes.
        """
        config, task = self.about.config, make_task(self.about.config, self.about.preprocessing)
        dtype = jnp.dtype(config.model.dtype)
        model, card = load_weights(self.file, dtype=dtype, build=lambda card: task.build(nnx.Rngs(0)))
        step = card["origin"].get("step") if isinstance(card.get("origin"), dict) else None
        return model, step if isinstance(step, int) else None


TrainedNetwork = OfRun | OfFile


def opened(path: str | RunPath, given: Given | None = None, checkpoint: Checkpoint = "last") -> TrainedNetwork:
    """Return the trained network that lies at a path, of which nothing but small files is read yet.

    Args:
        path: a run directory, on a disk or gs://BUCKET/PATH in a bucket; a folder of a hub; a safetensors file of this
            library; or "hf_hub:owner/name", a repository of the Hugging Face Hub, with "@revision" after it or not.
        given: what the caller says of a file whose card does not.
        checkpoint: of a run.

    Raises:
        RunDirectoryError: a folder that holds neither, or no file or folder.
        HubError: a repository that cannot be fetched.
        WeightsError: a file of another kind, or one whose card is missing or damaged.
    """
    hub = repository_of(path)
    if isinstance(path, BucketPath) or (not hub and re.match(r"\w{2,}:/", str(path))):
        return OfRun(run_path(path), checkpoint)
    place = fetched(hub) if hub else Path(path).expanduser()
    if place.is_dir() and (place / WEIGHTS_NAME).is_file():
        place = place / WEIGHTS_NAME
    if place.is_file() or (place.suffix == ".safetensors" and not place.is_dir()):
        if checkpoint != "last":
            raise WeightsError(f"{place}: holds one network; checkpoint={checkpoint!r} is for the directory of a run")
        return OfFile(place, given)
    if names := _of_another_form(place):
        raise WeightsError(f"{place}: has no {WEIGHTS_NAME}; {names} may be pickles or programs and are not read")
    if not place.exists():
        raise RunDirectoryError(
            f"{place}: no such file or folder; a network lies in a run directory, a .safetensors file, the folder of a "
            f'hub, or "{PREFIX}owner/name"'
        )
    if given and given.said:
        raise WeightsError(f"{place}: a run says how its network sees photographs; leave out {', '.join(given.said)}")
    return OfRun(run_path(path), checkpoint)


def _of_another_form(folder: Path) -> str:
    """Return the names of the files of a hub's folder that has no weights to read, "" for any other folder."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
        names = sorted(file.name for file in folder.iterdir() if file.suffix not in (".json", ".md", ".txt"))
    except (OSError, ValueError, RecursionError):
        return ""
    of_a_hub = isinstance(config, dict) and ("architecture" in config or IN_HEADER in config)
    return (", ".join(names[:5]) or "other files") if of_a_hub else ""
