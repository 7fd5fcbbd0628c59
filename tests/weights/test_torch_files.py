"""Tests of reading PyTorch's files without PyTorch; what PyTorch itself writes is compared where it is installed."""

import collections
import contextlib
import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from aa_flax.weights import WeightsError, read_state_dict, torch_files
from aa_flax.weights.torch_files import Opaque, torch_content

from .torch_written import Name, View, float8, write

FORMS = pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])


@pytest.fixture
def state(rng):
    return {
        "conv.weight": rng.normal(size=(3, 2, 1, 5)).astype(np.float32),
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "double": rng.normal(size=(1,)),
        "bfloat": rng.normal(size=(7,)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "num_batches_tracked": np.asarray(4, np.int64),
    }


@FORMS
def test_tensors_of_every_type_come_back(tmp_path, state, monkeypatch, older):
    monkeypatch.setitem(sys.modules, "torch", None)  # PyTorch cannot be imported
    write(collections.OrderedDict(state), tmp_path / "w.pth", older=older)
    read = read_state_dict(tmp_path / "w.pth")
    assert list(read) == list(state)
    for name, value in state.items():
        assert read[name].dtype == value.dtype, name
        np.testing.assert_array_equal(read[name], value)


@FORMS
def test_views_of_one_storage(tmp_path, rng, older):
    base = rng.normal(size=30).astype(np.float32)
    write({"a": View(base, 4, (2, 5), (1, 2)), "b": View(base, 0, (5, 6), (6, 1))}, tmp_path / "w", older=older)
    read = read_state_dict(tmp_path / "w")
    np.testing.assert_array_equal(read["a"], base[4:14].reshape(5, 2).T)
    np.testing.assert_array_equal(read["b"], base.reshape(5, 6))


def test_a_compressed_archive_serves(tmp_path, state):
    write(state, tmp_path / "w.pth", root="resnet50", compressed=True)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "w.pth")["half"], state["half"])


@FORMS
def test_what_a_file_names_is_never_imported_or_called(tmp_path, state, older):
    """Chains of names that would run a command, change modules, or change how the next file is read."""
    target = tmp_path / "was_run"
    mkdir = Name("os", "mkdir")
    harmful = {
        "call": mkdir(str(target)),
        "in a call": Name("functools", "partial")(mkdir, str(target)),
        "eval": Name("builtins", "eval")(f"__import__('os').mkdir({str(target)!r})"),
        "through a tensor": Name("torch._tensor", "_rebuild_from_type_v2")(mkdir, None, (str(target),), None),
        "getattr": Name("builtins", "getattr")(Name("os", "path"), "join"),
        "module": Name("aa_flax_no_such_module", "thing")(),
    }
    write({**state, **harmful}, tmp_path / "w.pth", older=older)
    with torch_content(tmp_path / "w.pth") as content:
        assert all(isinstance(content[name], Opaque) for name in harmful)
        assert repr(content["call"]) == "an object of os.mkdir"
    assert not target.exists() and "aa_flax_no_such_module" not in sys.modules


@pytest.mark.parametrize("name", [("collections", "OrderedDict"), ("torch._utils", "_rebuild_parameter")])
def test_a_file_cannot_change_how_the_next_is_read(tmp_path, state, name):
    """BUILD with a pair sets attributes of whatever it is given, classes and functions too."""
    attack = b"\x80\x02c" + "\n".join(name).encode() + b"\n(N}X\x08\x00\x00\x00__init__X\x00\x00\x00\x00stb."
    with zipfile.ZipFile(tmp_path / "attack", "w") as archive:
        archive.writestr("archive/data.pkl", attack)
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "attack")
    assert vars(torch_files._KNOWN[name]).get("__init__") != ""
    write(collections.OrderedDict(state), tmp_path / "w")
    assert list(read_state_dict(tmp_path / "w")) == list(state)


@FORMS
@pytest.mark.parametrize(
    "view",
    [(0, (31,), (1,)), (25, (2, 3), (3, 1)), (0, (5, 5), (0, 8)), (0, (1000, 1000), (0, 0)), (-1, (2,), (1,))],
    ids=["long", "late", "wide", "repeated", "negative"],
)
def test_a_tensor_beyond_its_storage(tmp_path, view, older):
    write({"a": View(np.zeros(30, np.float32), *view)}, tmp_path / "w.pth", older=older)
    with pytest.raises(WeightsError, match="damaged or cut short"):
        read_state_dict(tmp_path / "w.pth")


@FORMS
def test_files_that_are_cut_or_changed(tmp_path, state, older):
    """Every cut is an error, and so is every changed byte that the form can notice; none is another exception."""
    file = tmp_path / "w.pth"
    write(state, file, older=older)
    whole = file.read_bytes()
    for length in range(1, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_state_dict(file)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=60):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ rng.integers(1, 256)]) + whole[place + 1 :])
        with contextlib.suppress(WeightsError):
            read_state_dict(file)


def test_other_archives_and_pickles(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(WeightsError, match=r"a.npz: a zip archive that PyTorch did not write: it has no data.pkl"):
        read_state_dict(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/data.pkl", pickle.dumps({}))
        archive.writestr("program/constants.pkl", pickle.dumps({}))
    with pytest.raises(WeightsError, match="a TorchScript program; save the network's state_dict"):
        read_state_dict(tmp_path / "program.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="a pickle that PyTorch did not write, of which nothing is run"):
        read_state_dict(tmp_path / "a.pkl")


def test_float8_is_refused_by_name(tmp_path, build):
    """Their values alone mean nothing: the scales are elsewhere."""
    from aa_flax.weights import load_torch_state_dict

    write({"conv1.weight": float8([[1, 2], [3, 4]])}, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    np.testing.assert_array_equal(state["conv1.weight"].astype(np.float32), [[1, 2], [3, 4]])
    with pytest.raises(WeightsError, match="conv1.weight: has dtype float8_e4m3fn, expected float16, bfloat16"):
        load_torch_state_dict(build("resnet18"), state, source="timm")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
def test_small_floats_in_safetensors(tmp_path, kind):
    size = 2 if kind == "F4" else 4
    header = f'{{"a":{{"dtype":"{kind}","shape":[4],"data_offsets":[0,{size}]}}}}'.encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(WeightsError, match=f"1 arrays such as a are {kind}; expected F64, F32, F16 or BF16"):
        read_state_dict(tmp_path / "w.safetensors")


@FORMS
def test_what_pytorch_itself_writes_and_reads(tmp_path, state, older):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(1, 2, 5, 5)).sum().backward()
    optimizer.step()
    kinds = {str(t).split(".")[1]: torch.randn(4).to(t) for t in (torch.half, torch.bfloat16, torch.float8_e4m3fn)}
    whole = {
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "network": network,
        "kinds": kinds,
        "size": torch.Size([2]),
        "args": collections.Counter(a=1),
    }
    torch.save(whole, tmp_path / "w.ckpt", _use_new_zipfile_serialization=not older)
    for key, expected in (("state_dict", network.state_dict()), ("kinds", kinds)):
        read = read_state_dict(tmp_path / "w.ckpt", key=key)
        for name, value in expected.items():
            assert str(value.dtype) == f"torch.{read[name].dtype}"
            np.testing.assert_array_equal(read[name].astype(np.float32), value.float().numpy())
    # PyTorch reads what these tests write as its own.
    write(state, tmp_path / "ours.pth", older=older)
    for name, value in torch.load(tmp_path / "ours.pth", weights_only=True).items():
        np.testing.assert_array_equal(value.float().numpy(), state[name].astype(np.float32))
