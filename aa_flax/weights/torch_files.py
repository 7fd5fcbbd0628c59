"""A reader of PyTorch's files that needs no PyTorch and runs nothing that a file names.

Such a file is a pickle, which is a program: it may name any function and have it called. Here the few names that
tensors and dictionaries are made of have stand-ins, and every other name becomes an `Opaque`, which does nothing. So a
checkpoint that also holds an `argparse.Namespace` or an optimiser can be read, and one with harmful code can too.

PyTorch has written two forms. Since 1.6 a file is a zip archive: NAME/data.pkl is the pickle and NAME/data/KEY the
content of a storage, which several tensors may share. Before, the pickle came first, then the storages one by one.
"""

import contextlib
import functools
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from aa_flax.weights.errors import WeightsError

ZIP = b"PK\x03\x04"
"""What a zip archive begins with."""
_MAGIC = 0x1950A86A20F9469CFC6C  # what a file of the older form begins with
_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "bool", "complex64", "complex128")}
_DTYPES |= {f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}
_DTYPES |= {
    name: np.dtype(getattr(jnp, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
}
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


class Opaque:
    """The stand-in for everything that a pickle names and that is not needed; it takes what it is given and forgets."""

    named = ""

    def __new__(cls, *_: Any, **__: Any) -> "Opaque":
        return super().__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> "Opaque":
        """Return itself, where a pickle calls the result of a call."""
        return self

    def _forget(self, *_: Any) -> None:
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = _forget

    def __repr__(self) -> str:
        return f"an object of {self.named}"


class _Dict(dict):
    """The stand-in for dictionaries of `collections`; neither a default nor attributes are kept."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        for arg in args:
            if isinstance(arg, dict | list):
                self.update(arg)

    def __setstate__(self, state: Any) -> None:
        pass


class _DType(NamedTuple):
    """The stand-in for a type of numbers; unlike a dtype of NumPy, a pickle cannot change it."""

    dtype: np.dtype


class Storage(NamedTuple):
    """The numbers that one or several tensors are views of; `read` returns `size` of them from the file."""

    dtype: np.dtype
    size: int
    read: Callable[[], np.ndarray]


class Tensor(NamedTuple):
    """A tensor of a file, whose numbers are read when `array` is called."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def array(self) -> np.ndarray:
        """Return the tensor as an array; raise UnpicklingError if the file has fewer numbers than it needs."""
        flat = self.storage.read().view(self.dtype)
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        last = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.stride, strict=True))
        if last >= flat.size or math.prod(self.shape) > flat.size:
            raise pickle.UnpicklingError(f"a tensor of shape {self.shape} among {flat.size} numbers")
        steps = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise pickle.UnpicklingError(f"a tensor of shape {shape}, strides {stride} and offset {offset}")
    return Tensor(storage, offset, tuple(shape), tuple(stride), storage.dtype)


def _tensor_of_dtype(storage: Any, offset: Any, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError(f"a tensor of {dtype!r}")
    return _tensor(storage, offset, shape, stride)._replace(dtype=dtype.dtype)


def _first(value: Any, *_: Any) -> Any:
    return value


def _of_subclass(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments)  # a stand-in too


_KNOWN: dict[tuple[str, str], Any] = {
    **{("collections", name): _Dict for name in ("OrderedDict", "defaultdict", "Counter")},
    **{("torch._utils", name): _tensor for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    **{("torch._utils", name): _first for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")},
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    ("torch", "Size"): tuple,
    **{("torch", name): _DType(dtype) for name, dtype in _DTYPES.items()},
    **{
        (module, storage): _DType(_DTYPES[name])
        for storage, name in _STORAGES.items()
        for module in ("torch", "torch.cuda", "torch.storage")
    },
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, storage: Callable[[np.dtype, str, int], Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; a new one where a pickle could change what the next file would see."""
        known = _KNOWN.get((module, name))
        if known is None:
            return type(name, (Opaque,), {"named": f"{module}.{name}"})
        if known is _Dict:
            return type(name, (_Dict,), {})
        return known if known is tuple or isinstance(known, _DType) else functools.partial(known)

    def persistent_load(self, saved: Any) -> Any:
        if saved[0] == "module":  # the older form keeps the source text of a whole network's classes
            return saved[1]
        _, dtype, key, _, count, *view = saved
        if not isinstance(dtype, _DType) or not isinstance(count, int) or any(part is not None for part in view):
            raise pickle.UnpicklingError(f"the storage {saved!r}")
        return self._storage(dtype.dtype, str(key), count)


@contextlib.contextmanager
def torch_content(path: Path) -> Iterator[Any]:
    """Yield what a file that PyTorch wrote contains, with `Tensor` and `Opaque`; tensors can be read until the end.

    Raises:
        WeightsError: the file is damaged, or a zip archive or a pickle that PyTorch did not write.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            zipped = file.read(len(ZIP)) == ZIP
            file.seek(0)
            yield _zipped(path, file, stack) if zipped else _in_a_row(path, file)
    except WeightsError:
        raise
    # The type that a damaged archive or pickle raises depends on where it is damaged.
    except Exception as error:
        raise WeightsError(f"{path}: damaged or cut short ({type(error).__name__}: {error})") from None


def _zipped(path: Path, file: BinaryIO, stack: contextlib.ExitStack) -> Any:
    archive = stack.enter_context(zipfile.ZipFile(file))
    names = set(archive.namelist())
    roots = [name.removesuffix("data.pkl") for name in names if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise WeightsError(f"{path}: a zip archive that PyTorch did not write: it has no data.pkl")
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise WeightsError(f"{path}: a TorchScript program; save the network's state_dict(), best as .safetensors")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    read: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        def numbers() -> np.ndarray:
            if key not in read:
                stored = dtype.newbyteorder(">") if order == b"big" else dtype
                entry = archive.getinfo(f"{root}data/{key}")
                if entry.file_size != count * dtype.itemsize:
                    raise pickle.UnpicklingError(f"a storage of {entry.file_size} bytes for {count} {dtype} numbers")
                content = archive.read(entry)
                read[key] = np.frombuffer(content, stored, count).astype(dtype, copy=False)
            return read[key]

        return Storage(dtype, count, numbers)

    with archive.open(f"{root}data.pkl") as pickled:
        return _Unpickler(pickled, storage).load()


def _in_a_row(path: Path, file: BinaryIO) -> Any:
    places: dict[str, int] = {}
    found: dict[str, Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        def numbers() -> np.ndarray:
            file.seek(places[key])
            return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)

        return found.setdefault(key, Storage(dtype, count, numbers))

    if _Unpickler(file, storage).load() != _MAGIC:
        raise WeightsError(f"{path}: a pickle that PyTorch did not write, of which nothing is run")
    for _ in range(2):  # the version of the form, and the sizes of types
        _Unpickler(file, storage).load()
    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file, storage).load():
        count = int.from_bytes(file.read(8), "little")
        if count != found[key].size:
            raise pickle.UnpicklingError(f"a storage of {count} numbers, expected {found[key].size}")
        places[key] = file.tell()
        file.seek(count * found[key].dtype.itemsize, 1)
    return content


def with_arrays(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a dictionary with arrays in place of tensors; inside `torch_content`."""
    return {name: value.array() if isinstance(value, Tensor) else value for name, value in entries.items()}
