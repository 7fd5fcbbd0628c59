"""Tests of `python -m aa_flax.weights` on files as people have them, in this process."""

import importlib
import json

import numpy as np
import pytest
from absl import flags

from aa_flax.weights import read_state_dict

from .torch_written import Name, write

OPTIONS = '--options={"width": 0.25}'
NETWORK = ("--model=mnasnet_100", "--source=timm", "--num_classes=7", OPTIONS)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in the test's folder, and returns its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("aa_flax.weights.__main__")

    def run(*arguments):
        values = flags.FlagValues()
        module.define(values)
        try:
            module.guarded(values(["weights", *arguments]), values)
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.thorough
def test_a_training_checkpoint_of_two_wrapped_networks(command, tmp_path, small):
    """With a prefix, counters, an unknown class, an average, and images of one channel."""
    _, state = small
    raw = {f"module.{key}": value for key, value in state.items()} | {"module.bn1.num_batches_tracked": np.asarray(7)}
    averaged = {key: value + 1 if value.dtype == np.float32 else value for key, value in raw.items()}
    args = Name("argparse", "Namespace")()
    checkpoint = {"epoch": 3, "arch": "semnasnet_100", "args": args, "state_dict": raw, "state_dict_ema": averaged}
    write(checkpoint, tmp_path / "last.pth.tar")
    import_, names = ("import", *NETWORK), ("last.pth.tar", "ours.safetensors")
    status, out, errors = command(*import_, *names)
    assert (status, out) == (2, "") and "choose 'state_dict' or 'state_dict_ema' as key" in errors
    status, out, errors = command(
        *import_, "--key=state_dict_ema", "--in_channels=1", "--adapt_stem", "--image_size=48x64", *names
    )
    assert (status, errors) == (0, "")
    notes = out.splitlines()[:-1]
    assert notes == [
        "entry 'state_dict_ema' of last.pth.tar",
        "entry 'arch' of last.pth.tar: semnasnet_100",
        "names without their prefix 'module.'",
        "1 counters left out, such as module.bn1.num_batches_tracked",
        "stem.kernel: made for 1 channels from the 3 of the weights",
    ]
    card, arrays = json.loads((tmp_path / "ours.json").read_text()), read_state_dict("ours.safetensors")
    assert card["origin"]["notes"] == notes and (card["in_channels"], card["image_size"]) == (1, [48, 64])
    expected = averaged["module.conv_stem.weight"].sum(1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(arrays["stem.kernel"], expected)
    np.testing.assert_array_equal(arrays["head.bias"], averaged["module.classifier.bias"])


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_a_file_that_is_nothing_of_the_kind_is_one_line(command, tmp_path, content):
    (tmp_path / "w.ckpt").write_bytes(content)
    status, out, errors = command("import", *NETWORK, "w.ckpt", "ours.safetensors")
    assert (status, out) == (2, "") and errors.startswith("error: w.ckpt: ") and errors.count("\n") == 1


def test_the_config_beside_the_file_is_heeded(command, tmp_path, small):
    _, state = small
    write(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "mnasnet_small"}))
    status, _, errors = command("import", *NETWORK, "pytorch_model.bin", "ours.safetensors")
    assert status == 2 and errors.startswith("error: config.json: the weights are of 'mnasnet_small', which may have")
