"""The card of a file of this library's weights, which says what network they are of and how it sees photographs.

It lies beside the file, NAME.json, and a copy of it in the file's own header. In the folder of a hub it is a part of
`config.json`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from aa_flax.json_values import as_tuples
from aa_flax.models import create_model
from aa_flax.weights.errors import WeightsError, raise_all

FORMAT = 1
IN_HEADER = "aa_flax"
"""The name of the card in the header of a safetensors file, and in `config.json` of a hub's folder."""
KEY_NAMES = ("aa_flax", "timm")
"""Whose names the arrays of a file may have."""
_LONGEST_HEADER = 100_000_000  # bytes, as the format allows
LAYERS = ("blocks", "depth", "head_depth", "rpn_depth", "box_head_depth", "mask_head_depth")
"""Options of networks that count layers."""


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_FIELDS: dict[str, tuple[Any, str]] = {
    "format": (lambda value: _whole(value, 0), "a whole number"),
    "model": (lambda value: isinstance(value, str), "the name of a network"),
    "options": (lambda value: isinstance(value, dict), "an object"),
    "num_classes": (lambda value: _whole(value, 0), "a whole number"),
    "image_size": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= 3 and all(_whole(side, 1) for side in value),
        "height and width, or the sides of signals",
    ),
    "in_channels": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "sha256": (lambda value: isinstance(value, str), "a hash"),
}
"""For each field that a card must have, whether a value will do, and what is expected."""


def read_card(file: Path) -> dict[str, Any]:
    """Return the card of a file that `save` wrote: that beside it, else that of a hub's folder, else that in it.

    Raises:
        WeightsError: it is missing or damaged, or fields are missing or have values that they cannot have.
    """
    path = file.with_suffix(".json")
    try:
        path, card = next(_cards(file))
    except StopIteration:
        raise WeightsError(f"{path}: the card of {file.name} is missing, and none is in its header") from None
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: the card of {file.name} is no JSON object but {type(card).__name__}")
    missing = sorted({*_FIELDS} - {*card})
    if missing or card["format"] != FORMAT:
        raise WeightsError(f"{path}: not a card of format {FORMAT}; missing: {', '.join(missing) or 'nothing'}")
    raise_all(
        [
            f"{name}: expected {what}, got {card[name]!r}"
            for name, (serves, what) in _FIELDS.items()
            if not serves(card[name])
        ],
        f"{path}: the card of {file.name} has values that it cannot have",
    )
    return card


def described_by(model: nnx.Module, names: Sequence[str]) -> dict[str, Any] | None:
    """Return what a card says of a network of `create_model` that lies in no file; None of a network of another kind.

    Args:
        model: the network.
        names: of its classes.
    """
    built = getattr(model, "built_from", None)
    if built is None:
        return None
    fields = {name: getattr(built, name) for name in ("num_classes", "in_channels")}
    size, options = list(built.image_size), dict(built.options)
    return {"model": built.name, "options": options, "image_size": size, **fields, "origin": {"names": list(names)}}


def _cards(file: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the cards that there are of a file, each with where it is; raise WeightsError for one that is damaged."""
    path = beside = file.with_suffix(".json")
    try:
        if beside.exists():
            yield beside, json.loads(beside.read_text(encoding="utf-8"))
        path = file.with_name("config.json")
        if path.exists():
            config = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(config, dict) and IN_HEADER in config:
                yield path, config[IN_HEADER]
        path = file if file.exists() else beside
        if text := header(file).get("__metadata__", {}).get(IN_HEADER):
            yield file, json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the card of {file.name} is missing or damaged ({error})") from None


def header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file, {} of a file that has none; nothing else of the file is read.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        found = json.loads(opened.read(length)) if 1 < length <= _LONGEST_HEADER else {}
    return found if isinstance(found, dict) and isinstance(found.get("__metadata__", {}), dict) else {}


def described_network(
    path: Path,
    card: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Any = np.float32,
    build: Callable[[Mapping[str, Any]], nnx.Module] | None = None,
) -> nnx.Module:
    """Return the network that a card describes, with shapes in place of arrays.

    Args:
        path: the file whose card it is, for errors.
        card: a card as `read_card` returns it.
        shapes: the shapes of the file's arrays by path.
        dtype: of the computation.
        build: what makes it from the card instead of `create_model`.

    Raises:
        WeightsError: there is no such network, or it would have more layers than the file has arrays for.
    """
    # Building takes time and memory that grow with the layers, so that their number is compared before. Every layer has
    # an array of its own, or is an entry along the first axis of one.
    most = max(len(shapes), *(shape[0] for shape in shapes.values() if shape), 0)
    for name in LAYERS:
        counts = card["options"].get(name, 0)
        for count in counts if isinstance(counts, list) else [counts]:
            if isinstance(count, int | float) and count > most:
                raise WeightsError(
                    f"{path}: its card asks for {name}={counts}, and the file has arrays of {most} layers at most"
                )

    def by_card() -> nnx.Module:
        options = {key: as_tuples(value) for key, value in card["options"].items()}
        return create_model(
            card["model"],
            num_classes=card["num_classes"],
            image_size=tuple(card["image_size"]),
            in_channels=card["in_channels"],
            dtype=dtype,
            rngs=nnx.Rngs(0),
            **options,
        )

    try:
        return nnx.eval_shape(by_card if build is None else lambda: build(card))
    # What a network does with numbers that it was never meant for depends on the network.
    except Exception as error:
        raise WeightsError(f"{path}: its card describes no network of this version ({error})") from None
