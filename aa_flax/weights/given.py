"""State dicts made ready for a network: names without what wrappers put before them, values as arrays."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.weights.errors import WeightsError, raise_all


class Given(NamedTuple):
    """The arrays of a state dict by the names that a network knows.

    Attributes:
        arrays: those that may serve the network.
        prefix: what was taken off their names.
        others: full names of arrays of the state dict that stand beside those with the prefix.
        notes: what was done, in sentences.
    """

    arrays: dict[str, np.ndarray]
    prefix: str
    others: tuple[str, ...]
    notes: tuple[str, ...]


def given_arrays(state_dict: Mapping[str, Any], known: Iterable[str], *, lenient: bool = False) -> Given:
    """Return the arrays of a state dict, without a prefix that their names share and without counters.

    Left out are whole numbers without an axis, such as `num_batches_tracked`: counts of steps, which no network here
    has.

    Args:
        state_dict: arrays by name.
        known: names of which the network has some.
        lenient: leave out, with a note, other values than arrays of finite floating-point numbers, if `known` has not
            their names; otherwise they are errors.

    Raises:
        WeightsError: `state_dict` is no mapping from names, or entries are no arrays of finite floating-point numbers;
            one message lists them all. Or the names are those of several networks.
    """
    if not isinstance(state_dict, Mapping):
        raise WeightsError(
            f"state_dict must map names to arrays, got {type(state_dict).__name__}; read_state_dict(file) reads a "
            "file, and a PyTorch module has state_dict()"
        )
    if odd := [key for key in state_dict if not isinstance(key, str)]:
        raise WeightsError(f"state_dict must map names to arrays, got {odd[0]!r} as a name")
    known = set(known)
    values = {key: _plain(value) for key, value in state_dict.items()}
    counters = {key for key, value in values.items() if _is_counter(value)}
    prefix = common_prefix([key for key in values if key not in counters], known)
    arrays, others, left_out, problems = {}, [], [], []
    for key, value in values.items():
        if key in counters:
            continue
        name = key.removeprefix(prefix)
        wrong = _wrong(value)
        if wrong and lenient and (name not in known or not key.startswith(prefix)):
            left_out.append(f"{key} {wrong}")
        elif wrong:
            problems.append(f"{key}: {wrong}")
        elif key.startswith(prefix):
            arrays[name] = np.asarray(value)
        else:
            others.append(key)
    raise_all(problems, "the state dict holds other things than arrays of finite floating-point numbers")
    notes = [f"names without their prefix {prefix!r}"] if prefix else []
    notes += [f"{len(counters)} counters left out, such as {min(counters)}"] if counters else []
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    return Given(arrays, prefix, tuple(others), tuple(notes))


def common_prefix(keys: Iterable[str], known: set[str]) -> str:
    """Return what stands before the names that a network knows, such as "module.backbone."; "" if nothing does.

    Training on several devices, compiling, and modules that hold the network put it there. It is found by the names
    after it: at least half of those of the network or of the keys must follow it.

    Raises:
        WeightsError: known names follow several prefixes, those of a teacher and a student for example.
    """
    found: Counter[str] = Counter()
    total = 0
    for key in keys:
        total += 1
        starts = [0, *(place + 1 for place, letter in enumerate(key) if letter == ".")]
        found.update(key[:start] for start in starts if key[start:] in known)
    if not found:
        return ""
    (prefix, most), *rest = found.most_common()
    if 2 * most < min(total, len(known)) or found[""] == most:
        return ""
    rivals = [other for other, count in rest if 2 * count >= most]
    if rivals:
        several = " and ".join(map(repr, [prefix, *rivals]))
        raise WeightsError(
            f"the names of several networks: the same ones follow {several}; choose one as `key` of read_state_dict"
        )
    return prefix


def _is_counter(value: Any) -> bool:
    is_scalar = isinstance(value, int | np.ndarray | np.generic | jax.Array) and np.ndim(value) == 0
    return is_scalar and np.asarray(value).dtype.kind in "iub"


def _wrong(value: Any) -> str:
    """Return why a value cannot be a weight, "" if it can."""
    if isinstance(value, Exception):
        return f"numpy cannot take it ({value})"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # what NumPy and PyTorch raise
        return f"numpy cannot take it ({error})"
    if array.dtype != jnp.bfloat16 and (array.dtype.kind != "f" or array.dtype.itemsize < 2):
        what = f"has dtype {array.dtype}" if array.dtype != object else f"is {_kind(value)}"
        return f"{what}, expected float16, bfloat16, float32 or float64"
    with np.errstate(over="ignore"):
        return "" if np.isfinite(array.astype(np.float32)).all() else "holds infinity or NaN"


def _kind(value: Any) -> str:
    return "a dictionary" if isinstance(value, Mapping) else repr(value)[:80]


def _plain(value: Any) -> Any:
    """Detach a PyTorch tensor, in a dtype that NumPy has, without importing PyTorch; return anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    try:
        value = value.detach().cpu()
        return np.asarray(value.float() if str(value.dtype) == "torch.bfloat16" else value)
    except (TypeError, ValueError, RuntimeError) as error:  # a dtype that NumPy lacks, a tensor without values
        return error
