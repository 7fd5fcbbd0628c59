"""State dicts in files: which of PyTorch's forms or safetensors a file has, and which of its entries is the state dict.

What a file is called says nothing: `.pth`, `.pt`, `.bin`, `.ckpt`, `.pth.tar`, `.PTH` and names without suffix are all
in use for the same contents, so that the first bytes decide.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from aa_flax.weights.card import read_card
from aa_flax.weights.described import Description, described
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.torch_files import ZIP, Opaque, Tensor, torch_content, with_arrays

_OTHER_FORMS = {
    b"\x89HDF": "HDF5, as Keras writes it",
    b"version https://git-lfs": "a pointer of Git LFS, whose content `git lfs pull` brings",
    b"<": "a web page, perhaps instead of the download that was meant",
    b"{": "JSON, perhaps the list of a network's several files",
    b"\x1f\x8b": "gzip; unpack it first",
    b"\x93NUMPY": "an array of NumPy",
}


class StateDict(dict[str, Any]):
    """The arrays of a file by name, as `read_state_dict` returns them.

    Attributes:
        notes: which entry of the file it is, if the file holds more.
        description: what the file, or a `config.json` of timm beside it, says of the network; None if nothing does.
        card: the card beside a file of this library; None if there is none that can be read.
    """

    notes: tuple[str, ...] = ()
    description: Description | None = None
    card: Mapping[str, Any] | None = None


def read_state_dict(file: str | Path, *, key: str = "") -> StateDict:
    """Return the arrays, by name, of a safetensors file or of one that PyTorch wrote, whatever the file is called.

    PyTorch's files are pickles, which can contain code. They are read without PyTorch, by a reader that runs nothing
    that they name (`aa_flax.weights.torch_files`). In a file that holds more than a state dict, such as a training
    checkpoint, it is found at any depth, under whatever name.

    Args:
        file: the file.
        key: the entry that is the state dict, with dots between names of nested entries, for a file that holds several
            (`"state_dict_ema"`); or what stands before the names of one of several networks (`"encoder_q"`).

    Raises:
        WeightsError: the file is missing, damaged or of another form, or contains no state dict, or several.
    """
    path = Path(file).expanduser()
    if path.is_dir():
        raise WeightsError(f"{path}: a folder; name the file of weights in it")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with path.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from None
    if head.startswith(ZIP) or (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        with torch_content(path) as content:
            entries, name = _chosen(path, content, key)
            state = StateDict(with_arrays(entries))
    elif _is_safetensors(head, path.stat().st_size) or path.suffix == ".safetensors":
        content = read_safetensors(path)
        entries, name = _chosen(path, content, key)
        state = StateDict(entries)
    else:
        forms = [form for start, form in _OTHER_FORMS.items() if head.startswith(start)]
        form = forms[0] if forms else f"it begins with {head[:8]!r}" if head else "it is empty"
        raise WeightsError(f"{path}: neither safetensors nor a file that PyTorch wrote; {form}")
    if name:
        state.notes = (f"entry {name!r} of {path.name}",)
    state.description = described(path, content)
    with contextlib.suppress(WeightsError):  # of another program, or none
        state.card = read_card(path)
    return state


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether the first bytes of a file of that size are those of safetensors: a header's length and start."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name; raise WeightsError if it cannot be read."""
    try:
        return safetensors.numpy.load_file(path)
    # For a dtype that NumPy lacks it raises KeyError, TypeError or AttributeError.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({_unknown_types(path) or error})") from None


def _unknown_types(path: Path) -> str:
    """Return which types of numbers a safetensors file has that no weights here can have; "" if there are none."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        known = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
        odd = {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        odd = {name: kind for name, kind in odd.items() if kind not in known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError):
        return ""  # damaged, and the reader has said how
    first = next(iter(odd), "")
    return f"{len(odd)} arrays such as {first} are {odd[first]}; expected F64, F32, F16 or BF16" if odd else ""


def _chosen(path: Path, content: Any, key: str) -> tuple[Mapping[str, Any], str]:
    """Return the state dict in a file's content, and the name of the entry that it is, "" for the whole content."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds no state dict but {_kind(content)}")
    inner, given, prefix = content, "", ""
    if key:
        if (entry := _entry(content, key)) is not None:
            inner, given = entry, key
        else:
            prefix = key.rstrip(".") + "."
    found = {name: entry for name, entry in _state_dicts(inner) if not prefix or _following(prefix, entry)}
    if not found:
        known = ", ".join(_shown(name, value) for name, value in list(content.items())[:8]) or "nothing"
        what = "holds no state dict" if not key else f"has no {'state dict at' if given else 'entry'} {key!r}"
        raise WeightsError(f"{path}: {what}; it holds {known}")
    most = max(map(_count, found.values()))
    likely = [name for name, entry in found.items() if 2 * _count(entry) >= most]  # not a few tensors beside a network
    full = [".".join(part for part in (given, name) if part) for name in likely]
    if len(likely) > 1:
        raise WeightsError(f"{path}: holds several state dicts; choose {' or '.join(map(repr, full))} as key")
    entries = found[likely[0]]
    if prefix:
        entries = _following(prefix, entries)
        full[0] = ".".join(part for part in (full[0], prefix) if part)
    return entries, full[0]


def _following(prefix: str, entries: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, by what follows it."""
    names = [name for name in entries if isinstance(name, str) and name.startswith(prefix)]
    return {name.removeprefix(prefix): entries[name] for name in names}


def _entry(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any] | None:
    """Return the entry at a name, or at names with dots between them; None if there is none that holds others."""
    entry: Any = content
    for name in [key] if key in content else key.split("."):
        entry = entry.get(name) if isinstance(entry, Mapping) else None
    return entry if isinstance(entry, Mapping) else None


def _state_dicts(content: Mapping[Any, Any], name: str = "", depth: int = 4) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield, with the dotted name, each mapping from names to values some of which are arrays of an axis at least.

    The states of optimisers, which have numbers for names, are none.
    """
    if _count(content):
        yield name, content
    for key, entry in content.items():
        if depth and isinstance(key, str) and isinstance(entry, Mapping):
            yield from _state_dicts(entry, f"{name}.{key}" if name else key, depth - 1)


def _count(entries: Mapping[Any, Any]) -> int:
    """Return how many of the entries are arrays of floating-point numbers with an axis at least."""
    return sum(
        isinstance(key, str)
        and isinstance(value, Tensor | np.ndarray)
        and value.ndim > 0
        and value.dtype.kind not in "iub"
        for key, value in entries.items()
    )


def _kind(content: Any) -> str:
    return repr(content) if isinstance(content, Opaque) else type(content).__name__


def _shown(name: Any, value: Any) -> str:
    return f"{name!r} ({value!r})" if isinstance(value, Opaque) else repr(name)
