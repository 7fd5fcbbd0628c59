"""The card of an exported program: what goes in, what comes out, where it comes from, and what was compared."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aa_flax
from aa_flax.inference.about import About
from aa_flax.inference.export.errors import ExportError
from aa_flax.inference.export.served import Argument, Served
from aa_flax.json_values import to_json
from aa_flax.runs.commit import commit

FORMAT = "aa_flax export 1"


def card_of(served: Served, about: About, batch: int | None, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return what a card says of a network whatever the file's format.

    Args:
        served: the network.
        about: what is known of it.
        batch: the number of images of the program; None is any.
        packages: those whose versions made the file.
    """
    seen, size = served.preprocessing, list(served.size)
    return {
        "format": FORMAT,
        "model": about.config.model.name,
        "task": about.config.task.name,
        "names": list(seen.names),
        "inputs": [_described(each, batch) for each in served.inputs],
        "outputs": [_described(each, batch) for each in served.outputs()],
        "form": served.form,
        "preprocessing": {
            "included": served.normalizes,
            "image_size": size,
            "channels": seen.channels,
            "mean": seen.mean,
            "std": seen.std,
            "resize": seen.resize,
            "crop_fraction": seen.crop_fraction,
            "interpolation": seen.interpolation,
            "sides": seen.sides,
        },
        "dtype": seen.dtype,
        "commit": commit(),
        "versions": {
            "aa_flax": aa_flax.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "trained": about.as_json(),
    }


def _described(argument: Argument, batch: int | None) -> dict[str, Any]:
    shape = ["b" if batch is None else batch, *argument.shape]
    said = {"name": argument.name, "shape": shape, "dtype": argument.dtype, "meaning": argument.meaning}
    return {name: value for name, value in said.items() if value != ""}


def card_file(file: Path) -> Path:
    """Return the file of the card of a program, beside it: mine.stablehlo has mine.stablehlo.json."""
    return file.with_name(f"{file.name}.json")


def require_ours(file: Path) -> None:
    """Raise ExportError if a file would be replaced that no export wrote: it, or what lies there as its card."""
    card = card_file(file)
    if file.is_dir():
        raise ExportError(f"{file}: is a folder; a file is written, and its card beside it")
    if not (file.exists() or file.is_symlink() or card.exists() or card.is_symlink()):
        return
    try:
        known = json.loads(card.read_text("utf-8"))
        ours = isinstance(known, dict) and known["format"] == FORMAT
        if ours and (not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() == known["sha256"]):
            return
    except (OSError, ValueError, KeyError, RecursionError):
        pass
    raise ExportError(f"{file}: there is a file that no export wrote, or that was changed since; choose another name")


def written(file: Path, content: bytes, card: dict[str, Any]) -> dict[str, Any]:
    """Write a program and its card, each as a whole, and return the card with the program's SHA-256.

    Raises:
        ExportError: a file cannot be written.
    """
    card = {**card, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    for place, data in ((file, content), (card_file(file), (to_json(card, indent=1) + "\n").encode())):
        partial = place.with_name(f".{place.name}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(place)
        except OSError as error:
            raise ExportError(f"{place}: cannot be written ({error.strerror})") from None
    return card
