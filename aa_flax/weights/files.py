"""This library's own files of weights.

There are two: `NAME.safetensors`, with our dotted paths, and `NAME.json`, the card, which describes the network that
the weights belong to, where they come from, and how it sees photographs. The first also has the card in its header.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from aa_flax.json_values import to_json
from aa_flax.models.registry import BuiltFrom
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.card import FORMAT, IN_HEADER, KEY_NAMES, described_network, read_card
from aa_flax.weights.convert import load_torch_state_dict, to_torch_state_dict
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.state_dicts import read_safetensors


def save(
    model: nnx.Module,
    file: str | Path,
    *,
    origin: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """Write a network's parameters and batch statistics to `file` (.safetensors) and its card beside it (.json).

    Args:
        model: a network from `create_model`, whose arguments the card records.
        file: the file, whose name ends in .safetensors.
        origin: what the card records about where the weights come from; values that JSON can represent.
        trained: what it records of how the network was trained and how it sees photographs, as
            `aa_flax.inference.About.as_json` gives it; without it the names of classes, the size, the crop, the mean
            and so on must be given again to whatever uses the weights.

    Raises:
        WeightsError: the model is another module or was changed since it was built, so that the card would describe
            another one; JSON cannot represent its options or `origin`; or a file cannot be written.
    """
    path = _own_path(file)
    _require_no_other(path.with_suffix(".json"))
    arrays, text = described_arrays(model, path, origin=origin, trained=trained)
    write(path, arrays, {IN_HEADER: text})
    write_text(path.with_suffix(".json"), text)


def described_arrays(
    model: nnx.Module,
    path: Path,
    *,
    origin: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    key_names: str = KEY_NAMES[0],
) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of a network by name, and its card as JSON, checked: the network can be made from them again.

    Args:
        model, origin, trained: as of `save`.
        path: the file that they will be, for errors.
        key_names: whose names the arrays have, one of `KEY_NAMES`.

    Raises:
        WeightsError: as `save`, or there are no such names for the network.
    """
    untyped: Any = model
    if not isinstance(getattr(model, "built_from", None), BuiltFrom):
        raise WeightsError(f"{path}: a network of create_model can be saved, got a {type(model).__name__} of its own")
    arrays = {key: np.asarray(value) for key, value in flat_arrays(model).items()}
    card = {
        "format": FORMAT,
        "model": untyped.built_from.name,
        "options": dict(untyped.built_from.options),
        "num_classes": _classes(untyped, arrays),
        "image_size": list(untyped.image_size),
        "in_channels": untyped.in_channels,
        "params": sum(leaf.size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))),
        "sha256": _digest(arrays),
        "origin": dict(origin or {}),
        **({"key_names": key_names} if key_names != KEY_NAMES[0] else {}),
        **({"trained": dict(trained)} if trained else {}),
    }
    try:
        text = to_json(card, indent=1) + "\n"
    except TypeError as error:
        raise WeightsError(f"{path}: its options or origin are no plain values, which a card needs ({error})") from None
    shapes = {key: array.shape for key, array in arrays.items()}
    try:
        described = described_network(path, json.loads(text), shapes)
    except WeightsError as error:
        raise WeightsError(f"{path}: cannot be saved, because it could not be loaded again: {error}") from None
    _require_shapes(f"{path}: the network was changed since create_model built it", described, shapes)
    if key_names == KEY_NAMES[0]:
        return arrays, text
    theirs = to_torch_state_dict(model, source=key_names)
    load_torch_state_dict(described, theirs, source=key_names)
    if _digest({key: np.asarray(value) for key, value in flat_arrays(described).items()}) != card["sha256"]:
        raise WeightsError(f"{path}: under the names of {key_names} the weights would not be the same")
    return theirs, text


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing an old one as a whole; raise WeightsError if it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error})") from None


def _classes(model: Any, arrays: Mapping[str, np.ndarray]) -> int:
    """Return how many classes a network has, which may have got another classifier since it was built."""
    if getattr(model, "head", model) is None:
        return 0
    bias = arrays.get("head.bias")
    return model.built_from.num_classes if bias is None else bias.size


def _require_no_other(card: Path) -> None:
    """Raise WeightsError if a file is there under a card's name and is no card, so that it is not overwritten."""
    try:
        found = json.loads(card.read_text()) if card.exists() else {"format": FORMAT, "sha256": ""}
    except (OSError, ValueError):
        found = None
    if not (isinstance(found, dict) and {"format", "sha256"} <= found.keys()):
        raise WeightsError(f"{card}: is there and is no card of weights; give the weights another name or remove it")


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, replacing an old one as a whole; raise WeightsError if it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(safetensors.numpy.save(dict(arrays), metadata))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise WeightsError(f"{path}: cannot be written ({error})") from None


def load(
    file: str | Path,
    *,
    dtype: Any = np.float32,
    build: Callable[[Mapping[str, Any]], nnx.Module] | None = None,
) -> tuple[nnx.Module, dict[str, Any]]:
    """Return the network in a file that `save` wrote, and its card.

    Args:
        file: the .safetensors file, with its card beside it or in its header.
        dtype: the dtype of the computation, as for `create_model`.
        build: None, or the function that makes the network, for a card whose network was found to be there; its arrays
            must be those of the card. It is called where shapes alone are computed.

    Raises:
        WeightsError: a file is missing or damaged, or card and arrays do not belong together.
    """
    path = _own_path(file)
    card = read_card(path)
    arrays = read_safetensors(path)
    shapes = {key: array.shape for key, array in arrays.items()}
    key_names = card.get("key_names", KEY_NAMES[0])
    if key_names not in KEY_NAMES:
        raise WeightsError(f"{path}: its card says that names are those of {key_names!r}; expected one of {KEY_NAMES}")
    model = described_network(path, card, shapes, dtype, build)
    if key_names == KEY_NAMES[0]:
        _require_shapes(f"{path}: the arrays are not those of the network on its card", model, shapes)
        fill_arrays(model, arrays)
    else:
        load_torch_state_dict(model, arrays, source=key_names)
        arrays = {key: np.asarray(value) for key, value in flat_arrays(model).items()}
    if _digest(arrays) != card["sha256"]:
        raise WeightsError(f"{path}: the arrays are not those that its card describes")
    return model, card


def _own_path(file: str | Path) -> Path:
    path = Path(file).expanduser()
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a name that ends in .safetensors")
    return path


def _require_shapes(summary: str, model: nnx.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError, with a line for each difference, unless arrays of these shapes are those of a network."""
    expected = {key: leaf.shape for key, leaf in flat_arrays(model).items()}
    if expected != found:
        keys = expected.keys() | found.keys()
        wrong = sorted(key for key in keys if expected.get(key) != found.get(key))
        lines = [f"{key}: expected {expected.get(key, 'nothing')}, found {found.get(key, 'nothing')}" for key in wrong]
        raise WeightsError("\n  ".join([f"{summary}:", *lines]))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names, shapes, dtypes and contents of the arrays."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
