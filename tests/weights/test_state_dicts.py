"""Tests of which file and which of its entries is a state dict."""

import os
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy

from aa_flax.weights import WeightsError, read_state_dict

from .torch_written import Name, write

STATE = {"conv1.weight": np.full((2, 3, 1, 1), 0.5, np.float32), "bn1.weight": np.ones(2, np.float32)}
COUNT = np.asarray(3, np.int64)
# What training programs keep beside the network; the last are arrays too.
BESIDE = {
    "epoch": 3,
    "args": Name("argparse", "Namespace")(),
    "optimizer": {"state": {0: {"exp_avg": np.ones((2, 3), np.float32), "step": COUNT}}, "param_groups": [{"lr": 0.1}]},
    "scheduler": Name("torch.optim.lr_scheduler", "LambdaLR")(),
    "best_acc1": np.asarray(76.1, np.float32),
    "rng_state": np.zeros(5, np.uint8),
    "class_weights": np.ones(3, np.float32),
}


def same(read, state=STATE):
    return list(read) == list(state) and all((np.asarray(read[key]) == state[key]).all() for key in state)


@pytest.mark.parametrize(
    "name", ["w.pth", "w.PTH", "w.pt", "w.bin", "w.ckpt", "w.pth.tar", "w.safetensors", "w", "w.x"]
)
@pytest.mark.parametrize("form", ["zip", "older", "safetensors"])
def test_the_content_decides_and_not_the_name(tmp_path, form, name):
    if form == "safetensors":
        safetensors.numpy.save_file(STATE, tmp_path / name)
        assert same(read_state_dict(tmp_path / name), dict(sorted(STATE.items())))
    else:
        write(STATE, tmp_path / name, older=form == "older")
        read = read_state_dict(str(tmp_path / name))
        assert same(read) and read.notes == () and read.description is None


@pytest.mark.parametrize(
    ("entry", "key"),
    [(name, name) for name in ("state_dict", "model", "state_dict_ema", "ema", "model_state_dict", "net", "my network")]
    + [("ema", "ema.state_dict"), ("checkpoint", "checkpoint.model.module"), ("model", "model.state_dict")],
)
def test_a_state_dict_is_found_in_a_checkpoint(tmp_path, entry, key):
    inner = STATE
    for name in reversed(key.split(".")[1:]):
        inner = {"decay": 0.999, name: inner}
    content = {**BESIDE, entry: inner}
    del content["class_weights"]
    write(content, tmp_path / "w.ckpt")
    read = read_state_dict(tmp_path / "w.ckpt")
    assert same(read) and read.notes == (f"entry {key!r} of w.ckpt",)
    assert same(read_state_dict(tmp_path / "w.ckpt", key=key)) and same(read_state_dict(tmp_path / "w.ckpt", key=entry))


def test_a_few_arrays_beside_a_network_are_no_network(tmp_path):
    state = {f"layer{i}.weight": np.ones(2, np.float32) for i in range(5)}
    write({**BESIDE, "state_dict": state}, tmp_path / "w.ckpt")
    assert same(read_state_dict(tmp_path / "w.ckpt"), state)


def test_of_several_state_dicts_one_is_chosen_by_name(tmp_path):
    averaged = {key: 2 * value for key, value in STATE.items()}
    write({"epoch": 3, "state_dict": STATE, "ema": {"updates": 7, "model": averaged}}, tmp_path / "w.pth.tar")
    with pytest.raises(WeightsError, match=r"holds several state dicts; choose 'state_dict' or 'ema.model' as key"):
        read_state_dict(tmp_path / "w.pth.tar")
    assert same(read_state_dict(tmp_path / "w.pth.tar", key="state_dict"))
    for key in ("ema", "ema.model"):
        assert same(read_state_dict(tmp_path / "w.pth.tar", key=key), averaged)
    with pytest.raises(WeightsError, match="has no entry 'net'; it holds 'epoch', 'state_dict', 'ema'"):
        read_state_dict(tmp_path / "w.pth.tar", key="net")
    write({"model": {**STATE, 3: COUNT}, "optimizer": BESIDE["optimizer"]}, tmp_path / "w.pth.tar")
    with pytest.raises(WeightsError, match="has no state dict at 'optimizer'; it holds 'model', 'optimizer'"):
        read_state_dict(tmp_path / "w.pth.tar", key="optimizer")
    with pytest.raises(WeightsError, match="has no entry 'conv'; it holds 'model', 'optimizer'"):
        read_state_dict(tmp_path / "w.pth.tar", key="conv")


@pytest.mark.parametrize("key", ["encoder_q", "encoder_q.", "module.encoder_q"])
def test_one_of_several_networks_is_chosen_by_what_stands_before_its_names(tmp_path, key):
    before = "module." if key.startswith("module") else ""
    networks = {"encoder_q": STATE, "encoder_k": {name: value + 1 for name, value in STATE.items()}}
    state = {f"{before}{part}.{name}": value for part, arrays in networks.items() for name, value in arrays.items()}
    write({"epoch": 3, "state_dict": state}, tmp_path / "moco.pth.tar")
    read = read_state_dict(tmp_path / "moco.pth.tar", key=key)
    assert same(read) and read.notes == (f"entry 'state_dict.{key.rstrip('.')}.' of moco.pth.tar",)


def test_a_whole_network_is_no_state_dict(tmp_path):
    network = Name("torchvision.models.resnet", "ResNet")()
    write(network, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict but an object of torchvision.models.resnet.ResNet"):
        read_state_dict(tmp_path / "w.pth")
    write({"model": network, "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"it holds 'model' \(an object of torchvision.models.resnet.ResNet\), 'epoch'"
    ):
        read_state_dict(tmp_path / "w.pth")
    write([STATE], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict but list"):
        read_state_dict(tmp_path / "w.pth")
    for nothing in ({}, {"epoch": 3}):
        write(nothing, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="holds no state dict; it holds"):
            read_state_dict(tmp_path / "w.pth")


OTHERS = {
    "empty": (b"", "it is empty"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "keras": (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it"),
    "index": (b'{"metadata": {}, "weight_map": {}}', "JSON"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "text": (b"garbage", "it begins with b'garbage'"),
}


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ""])
@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_another_form_say_what_they_are(tmp_path, kind, suffix):
    content, form = OTHERS[kind]
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=f"w{suffix}: neither safetensors nor a file that PyTorch wrote; {form}"):
        read_state_dict(tmp_path / f"w{suffix}")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        read_state_dict(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="a folder; name the file of weights in it"):
        read_state_dict(tmp_path)
    for content in (b"garbage", b"", struct.pack("<Q", 9) + b"{}", struct.pack("<Q", 2**63) + b"{}", b"{" * 40):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read_state_dict(tmp_path / "w.safetensors")


class Mischief:
    def __reduce__(self):
        return os.mkdir, (os.environ["MISCHIEF"],)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors", ""])
def test_a_pickle_with_code_is_never_run(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("MISCHIEF", str(tmp_path / "was_run"))
    file = tmp_path / f"w{suffix}"
    file.write_bytes(pickle.dumps({"conv1.weight": Mischief()}))
    with pytest.raises(WeightsError, match="a pickle that PyTorch did not write, of which nothing is run"):
        read_state_dict(file)
    assert not (tmp_path / "was_run").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "was_run").exists()  # the file is harmful
