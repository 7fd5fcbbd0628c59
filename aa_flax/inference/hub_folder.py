"""The folder of a hub: a trained network with its config and its model card, in three files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from flax import nnx

import aa_flax
from aa_flax.inference.model_card import model_card
from aa_flax.inference.predictor import Predictor
from aa_flax.inference.repository import CONFIG_NAME, WEIGHTS_NAME
from aa_flax.inference.timm_config import timm_config
from aa_flax.json_values import to_json
from aa_flax.tasks import TASKS
from aa_flax.weights import WeightsError
from aa_flax.weights.card import IN_HEADER, header
from aa_flax.weights.files import described_arrays, write, write_text

CARD_NAME = "README.md"
FILES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
"""The files of such a folder."""
_MARK = "<!-- written by aa_flax.hub.save; sha256 of all above: "


def save(
    model: Predictor | nnx.Module, folder: str | Path, *, license: str = "", intended_use: str = "", title: str = ""
) -> Path:
    """Write a trained network into a folder: config.json, model.safetensors and README.md, its model card.

    The weights have timm's names, and config.json what timm reads of it, if timm has the same network; a predictor is
    given back by `aa_flax.load(folder)` in any case, with the same bits.

    Args:
        model: a predictor, which `aa_flax.load` gives; or a network of `create_model` alone, of which the folder then
            does not say how it sees photographs.
        folder: which is made; in one that is there, files that `save` wrote are replaced.
        license: identifier of the license of the weights, such as "apache-2.0", for the card.
        intended_use: a sentence for the card; one that follows from the task if not given.
        title: of the card; the run's label or the network's name if not given.

    Returns:
        The folder.

    Raises:
        WeightsError: the folder has files of these names that `save` did not write, or a card that was changed since;
            the network was changed since it was built; or a file cannot be written.
    """
    place = Path(folder).expanduser()
    _require_own(place)
    predictor = model if isinstance(model, Predictor) else None
    network: Any = model if predictor is None else predictor.model
    about = None if predictor is None else predictor.about
    if about is not None and about.config.task.name not in TASKS:
        raise WeightsError(f"the task {about.config.task.name!r} is a program, which the folder of a hub must not name")
    for_timm = timm_config(network, about)
    arrays, text = described_arrays(
        network,
        place / WEIGHTS_NAME,
        origin={"aa_flax": aa_flax.__version__} if predictor is None else predictor.origin,
        trained=None if about is None else about.as_json(),
        **({"key_names": "timm"} if for_timm else {}),
    )
    card = json.loads(text)
    config = {
        "library_name": "aa_flax",
        **(for_timm or {"architecture": card["model"], "num_classes": card["num_classes"]}),
        IN_HEADER: card,
    }
    said = model_card(card, about, for_timm, license=license, intended_use=intended_use, title=title)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{place}: cannot be made a folder ({error.strerror})") from None
    write(place / WEIGHTS_NAME, arrays, {IN_HEADER: text})
    write_text(place / CONFIG_NAME, to_json(config, indent=1) + "\n")
    write_text(place / CARD_NAME, f"{said}{_MARK}{_digest(said)} -->\n")
    return place


def require_hub_folder(folder: Path) -> None:
    """Raise WeightsError unless a folder has the three files, none of them a link, and is of this library.

    What is shared must be what `save` wrote: a link could have any file of the machine go with it.
    """
    for name in FILES:
        file = folder / name
        if file.is_symlink() or not file.is_file():
            raise WeightsError(f"{file}: {'a link, which is not followed' if file.is_symlink() else 'no such file'}")
    if not _is_ours(folder):
        raise WeightsError(f"{folder / CONFIG_NAME}: not written by aa_flax.hub.save")


def _require_own(folder: Path) -> None:
    """Raise WeightsError if a file would be replaced that `save` did not write, or that was changed since."""
    there = [name for name in FILES if (folder / name).exists() or (folder / name).is_symlink()]
    for name in there:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise WeightsError(f"{folder / name}: is there and is no file of its own; choose another folder")
    begun = WEIGHTS_NAME in there and CONFIG_NAME not in there and _has_card(folder / WEIGHTS_NAME)
    if any(name in there for name in (CONFIG_NAME, WEIGHTS_NAME)) and not begun and not _is_ours(folder):
        names = ", ".join(there)
        raise WeightsError(f"{folder}: has {names} that aa_flax.hub.save did not write; choose another folder")
    if CARD_NAME in there and not _is_unchanged(folder / CARD_NAME):
        raise WeightsError(
            f"{folder / CARD_NAME}: was written or changed by hand; put it elsewhere, or choose another folder"
        )


def _is_ours(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("library_name") == "aa_flax" and IN_HEADER in config


def _has_card(weights: Path) -> bool:
    """Return whether weights are as a `save` leaves them that was interrupted before the config.

    Weights that were saved alone have their card beside them, and are not replaced.
    """
    try:
        return not weights.with_suffix(".json").exists() and IN_HEADER in header(weights).get("__metadata__", {})
    except (OSError, ValueError, RecursionError):
        return False


def _is_unchanged(file: Path) -> bool:
    try:
        said, mark, digest = file.read_text("utf-8").rpartition(_MARK)
    except (OSError, ValueError):
        return False
    return bool(mark) and digest.strip() == f"{_digest(said)} -->"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
