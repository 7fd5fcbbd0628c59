"""Files of weights: reading those of PyTorch, and writing and reading those of this library.

This library writes two files: `NAME.safetensors`, with our dotted paths, and `NAME.json`, the card, which describes the
network that the weights belong to and where they come from.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from aa_flax.json_values import as_tuples, to_json
from aa_flax.models import create_model
from aa_flax.models.registry import BuiltFrom
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.errors import WeightsError

_FORMAT = 1
_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "params")


def read_state_dict(file: str | Path, *, key: str = "") -> dict[str, Any]:
    """Return the arrays, by name, of a `.safetensors` file, or of a `.pth`, `.pt` or `.bin` file of PyTorch.

    PyTorch's files are pickles, which can contain code. They are read by PyTorch with `weights_only=True` only, so that
    PyTorch must be installed.

    Args:
        file: the file.
        key: for a file that contains more than a state dict, the entry that is the state dict.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, or contains no state dict.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        loaded: Any = read_safetensors(path)
    elif path.suffix in (".pth", ".pt", ".bin"):
        loaded = _read_pickle(path)
    else:
        raise WeightsError(f"{path}: expected .safetensors, .pth, .pt or .bin")
    if key:
        if not isinstance(loaded, Mapping) or key not in loaded:
            known = ", ".join(map(repr, list(loaded)[:8])) if isinstance(loaded, Mapping) else type(loaded).__name__
            raise WeightsError(f"{path}: has no entry {key!r}; it holds {known}")
        loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path}: holds no state dict but {type(loaded).__name__}")
    wrapped = [name for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)]
    if wrapped:
        raise WeightsError(f"{path}: holds more than a state dict; choose {' or '.join(map(repr, wrapped))} as key")
    return dict(loaded)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name; raise WeightsError if it cannot be read."""
    try:
        return safetensors.numpy.load_file(path)
    # For a dtype that NumPy lacks it raises KeyError or TypeError.
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from None


def _read_pickle(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path}: reading a PyTorch pickle needs PyTorch (pip install torch); a .safetensors file does not"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Unpickling errors, zip errors, and whatever a file of other content may raise.
    except Exception as error:
        raise WeightsError(
            f"{path}: PyTorch does not read it with weights_only=True ({type(error).__name__}); it is damaged, or "
            "holds more than tensors and plain containers: save the network's state_dict(), best as .safetensors"
        ) from None


def save(model: nnx.Module, file: str | Path, *, origin: Mapping[str, Any] | None = None) -> None:
    """Write a network's parameters and batch statistics to `file` (.safetensors) and its card beside it (.json).

    Args:
        model: a network from `create_model`, whose arguments the card records.
        file: the file, whose name ends in .safetensors.
        origin: what the card records about where the weights come from; values that JSON can represent.

    Raises:
        WeightsError: the model is another module, JSON cannot represent its options or `origin`, or a file cannot be
            written.
    """
    path = _own_path(file)
    untyped: Any = model
    if not isinstance(getattr(model, "built_from", None), BuiltFrom):
        raise WeightsError(f"{path}: a network of create_model can be saved, got a {type(model).__name__} of its own")
    arrays = {key: np.asarray(value) for key, value in flat_arrays(model).items()}
    card = {
        "format": _FORMAT,
        "model": untyped.built_from.name,
        "options": dict(untyped.built_from.options),
        "num_classes": 0 if untyped.head is None else untyped.head.bias.shape[0],
        "image_size": list(untyped.image_size),
        "in_channels": untyped.in_channels,
        "params": sum(leaf.size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))),
        "sha256": _digest(arrays),
        "origin": dict(origin or {}),
    }
    try:
        text = to_json(card, indent=1) + "\n"
    except TypeError as error:
        raise WeightsError(f"{path}: its options or origin are no plain values, which a card needs ({error})") from None
    write(path, arrays)
    try:
        path.with_suffix(".json").write_text(text)
    except OSError as error:
        raise WeightsError(f"{path.with_suffix('.json')}: cannot be written ({error})") from None


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


def load(file: str | Path, *, dtype: Any = np.float32) -> tuple[nnx.Module, dict[str, Any]]:
    """Return the network in a file that `save` wrote, and its card.

    Args:
        file: the .safetensors file, with its card beside it.
        dtype: the dtype of the computation, as for `create_model`.

    Raises:
        WeightsError: a file is missing or damaged, or card and arrays do not belong together.
    """
    path = _own_path(file)
    card = read_card(path)
    arrays = read_safetensors(path)
    model = _abstract(path, card, dtype)
    _require_shapes(path, model, arrays)
    if _digest(arrays) != card["sha256"]:
        raise WeightsError(f"{path}: the arrays are not those that its card describes")
    fill_arrays(model, arrays)
    return model, card


def read_card(file: Path) -> dict[str, Any]:
    """Return the card beside a file that `save` wrote; raise WeightsError if it is missing or damaged."""
    path = file.with_suffix(".json")
    try:
        card = json.loads(path.read_text())
        missing = {"format", "model", "options", "num_classes", "image_size", "in_channels", "sha256"} - set(card)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: the card of {file.name} is missing or damaged ({error})") from None
    if missing or card["format"] != _FORMAT:
        raise WeightsError(
            f"{path}: not a card of format {_FORMAT}; missing: {', '.join(sorted(missing)) or 'nothing'}"
        )
    return card


def _own_path(file: str | Path) -> Path:
    path = Path(file).expanduser()
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a name that ends in .safetensors")
    return path


def _abstract(path: Path, card: Mapping[str, Any], dtype: Any = np.float32) -> nnx.Module:
    """Return the network that a card describes, with shapes in place of arrays."""
    options = {key: as_tuples(value) for key, value in card["options"].items()}
    try:
        return nnx.eval_shape(
            lambda: create_model(
                card["model"],
                num_classes=card["num_classes"],
                image_size=tuple(card["image_size"]),
                in_channels=card["in_channels"],
                dtype=dtype,
                rngs=nnx.Rngs(0),
                **options,
            )
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its card describes no network of this version ({error})") from None


def _require_shapes(path: Path, model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    expected = {key: leaf.shape for key, leaf in flat_arrays(model).items()}
    found = {key: array.shape for key, array in arrays.items()}
    if expected != found:
        keys = expected.keys() | found.keys()
        wrong = sorted(key for key in keys if expected.get(key) != found.get(key))
        lines = [f"{key}: expected {expected.get(key, 'nothing')}, found {found.get(key, 'nothing')}" for key in wrong]
        raise WeightsError("\n  ".join([f"{path}: the arrays are not those of the network on its card:", *lines]))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names, shapes, dtypes and contents of the arrays."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
