"""Files as PyTorch writes them, written without PyTorch, in both of its forms. This file does not use aa_flax."""

import collections
import io
import pickle
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
}


class Name:
    """Something that a pickle names, such as argparse.Namespace; calling it stands for what it would make."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self, *args):
        return Call(self, args)


class Call:
    def __init__(self, function, args):
        self.function, self.args = function, args


class View:
    """A tensor that is a view of an array with others, as slices and tied weights are."""

    def __init__(self, base, offset, shape, strides):
        self.base, self.offset, self.shape, self.strides = base, offset, shape, strides


class _Storage:
    def __init__(self, array):
        self.array = array


class _Pickler(pickle._Pickler):  # the one in Python, whose table of types can be extended
    dispatch = {**pickle._Pickler.dispatch}  # noqa: RUF012, the base class has it as an attribute of the class

    def __init__(self, file, older):
        super().__init__(file, 2)
        self.end = (None,) if older else ()  # the older form says of what a storage is a view
        self.storages = {}  # key and array, by identity

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        key, _ = self.storages.setdefault(id(value.array), (str(len(self.storages)), value.array))
        kind = STORAGES.get(value.array.dtype.name, "UntypedStorage")
        module = "torch.storage" if kind == "UntypedStorage" else "torch"
        return ("storage", Name(module, kind), key, "cpu", value.array.size, *self.end)

    def save_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_call(self, value):
        self.save_reduce(value.function, value.args, obj=value)

    def save_view(self, value):
        dtype = value.base.dtype
        args = (value.offset, tuple(value.shape), tuple(value.strides), False, collections.OrderedDict())
        if dtype.name in STORAGES:
            made = Name("torch._utils", "_rebuild_tensor_v2")(_Storage(value.base), *args)
        else:
            content = np.frombuffer(value.base.tobytes(), np.uint8)
            self.bytes = [*getattr(self, "bytes", []), content]  # kept, so that no other array gets its identity
            storage = _Storage(content.view(np.dtype([("untyped", "u1")])))
            self.bytes.append(storage.array)
            made = Name("torch._utils", "_rebuild_tensor_v3")(storage, *args, Name("torch", dtype.name))
        self.save(made)

    def save_array(self, value):
        flat = np.ascontiguousarray(value).reshape(-1)
        strides = [int(np.prod(value.shape[i + 1 :], dtype=int)) for i in range(value.ndim)]
        self.kept = [*getattr(self, "kept", []), flat]
        self.save_view(View(flat, 0, value.shape, strides))

    dispatch |= {Name: save_name, Call: save_call, View: save_view, np.ndarray: save_array}


def write(content, file, *, older=False, root="archive", compressed=False):
    """Write `content`, with arrays and `View`s as tensors, in the zipped or the older form."""
    out = io.BytesIO()
    pickler = _Pickler(out, older)
    if not older:
        pickler.dump(content)
        kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", kind) as archive:
            archive.writestr(f"{root}/data.pkl", out.getvalue())
            archive.writestr(f"{root}/byteorder", "little")
            for key, array in pickler.storages.values():
                archive.writestr(f"{root}/data/{key}", array.tobytes())
            archive.writestr(f"{root}/version", "3\n")
        return
    for first in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
        pickle.dump(first, out, 2)
    pickler.dump(content)
    pickle.dump([key for key, _ in pickler.storages.values()], out, 2)
    for _, array in pickler.storages.values():
        out.write(array.size.to_bytes(8, "little") + array.tobytes())
    file.write_bytes(out.getvalue())


def float8(values):
    return np.asarray(values, ml_dtypes.float8_e4m3fn)
