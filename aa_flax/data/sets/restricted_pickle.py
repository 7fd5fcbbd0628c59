"""A reader of pickles that contain only numpy arrays, containers, strings and numbers.

A pickle can run any code that it names. The official CIFAR files in their Python version are pickles, so this
unpickler resolves only the few names that arrays need, to stand-ins that collect what an array is made of.
"""

import math
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from aa_flax.data.errors import DataError


class _ArrayType:
    """The stand-in for numpy.ndarray, which a pickle may name only as an argument of `_reconstruct`."""

    def __new__(cls) -> NoReturn:
        raise pickle.UnpicklingError("an array that is not built the usual way")


class _DType:
    """The stand-in for numpy.dtype: a kind and size, then (set by `__setstate__`) a byte order."""

    def __init__(self, code: bytes | str, align: bool = False, copy: bool = False):
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if self.code[:1] not in "biuf" or not self.code[1:].isdigit():
            raise pickle.UnpicklingError(f"an array of {self.code!r}")
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"the byte order {order!r}")
        self.order = order


class _Array:
    """The stand-in for an array; `__setstate__` builds the array itself, `value`."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not made of plain numbers")
        flat = np.frombuffer(content, np.dtype(dtype.order + dtype.code))
        if flat.size != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {flat.size} elements")
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(array_type: type, shape: Any, typecode: Any) -> _Array:
    if array_type is not _ArrayType:
        raise pickle.UnpicklingError("an array that is not built the usual way")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that Python 3 wrote as text into a pickle that Python 2 can read."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_ALLOWED = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _empty_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused(f"the external object {pid!r}")


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle of Python 2 or 3; strings of Python 2 become bytes.

    Raises:
        DataError: the file is missing, truncated or damaged, or names anything but arrays, containers, strings and
            numbers. Nothing that it names is imported or called.
    """
    try:
        with path.open("rb") as file:
            return _with_arrays(_Unpickler(file, encoding="bytes").load())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except _Refused as refused:
        raise DataError(
            f"{path}: refused: the pickle asks for {refused}; accepted are numpy arrays, lists, tuples, dicts, "
            f"bytes, strings and numbers"
        ) from None
    # The type that a damaged pickle raises depends on the damaged opcode.
    except Exception as error:
        raise DataError(f"{path}: truncated or damaged pickle ({type(error).__name__}: {error})") from None


def _with_arrays(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _with_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_arrays(item) for item in value)
    return value
