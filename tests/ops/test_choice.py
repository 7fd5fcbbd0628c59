"""Tests of the implementation that "auto" chooses, and of the message about it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from aa_flax import ops
from aa_flax.layers import AAConv2D
from aa_flax.ops import choice, platform
from aa_flax.ops.choice import Call, choose
from aa_flax.ops.platform import target_platform, traced_with_capability


@pytest.fixture
def with_cudnn(monkeypatch):
    monkeypatch.setattr(choice.cudnn, "available", lambda: True)


@pytest.mark.usefixtures("with_cudnn")
@pytest.mark.parametrize(
    ("target", "dtype", "side", "expected"),
    [
        ("cpu", "float32", 28, "folded_pieces"),
        ("cpu", "float64", 7, "folded_pieces"),
        ("tpu", "bfloat16", 7, "pallas_tpu"),
        ("tpu", "float32", 64, "pallas_tpu"),
        ("tpu", "float16", 14, "folded"),
        ("tpu", "float32", 160, "folded_pieces"),  # more than a TPU's VMEM
        ("gpu", "bfloat16", 7, "folded"),
        ("gpu", "bfloat16", 14, "cudnn"),
        ("gpu", "bfloat16", 32, "cudnn"),
        ("gpu", "float32", 28, "pallas_gpu"),
        ("gpu", "float32", 7, "pallas_gpu"),
        ("gpu", "bfloat16", 97, "pallas_gpu"),  # folded width 214
        ("gpu", "float16", 28, "cudnn"),
        ("gpu", "float16", 7, "folded"),
        ("gpu", "float16", 64, "folded_pieces"),  # folded width 148
        ("metal", "float32", 28, "folded_pieces"),
        ("metal", "float32", 14, "folded"),
    ],
)
def test_the_table(monkeypatch, target, dtype, side, expected):
    monkeypatch.setattr(choice, "target_platform", lambda: target)
    assert choose(dtype, side, side, 8, 20, 3, True) == expected


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", "pallas_gpu"), ("float16", "folded")])
def test_without_cudnn_another_serves(monkeypatch, dtype, expected):
    """cuDNN is absent if a program for GPUs is compiled on a machine without one."""
    monkeypatch.setattr(choice, "target_platform", lambda: "gpu")
    assert choose(dtype, 14, 14, 8, 20, 3, True) == expected


@pytest.mark.usefixtures("with_cudnn")
@pytest.mark.parametrize(
    ("capability", "bfloat16", "float32"),
    [
        ("9.0", "cudnn", "pallas_gpu"),
        ("8.0", "pallas_gpu", "pallas_gpu"),  # without timings the choice goes by bytes
        ("7.5", "folded", "folded"),
        ("gfx942", "folded", "folded"),
    ],
)
def test_what_needs_a_newer_gpu_is_left_out_on_older_ones(monkeypatch, capability, bfloat16, float32):
    card = SimpleNamespace(platform="gpu", device_kind="a card", compute_capability=capability)
    monkeypatch.setattr(platform.jax, "local_devices", lambda: [card])
    monkeypatch.setattr(platform, "target_device_kind", lambda: "a card")
    monkeypatch.setattr(choice, "target_platform", lambda: "gpu")
    assert [choose(dtype, 14, 14, 8, 20, 3, True) for dtype in ("bfloat16", "float32")] == [bfloat16, float32]
    monkeypatch.setattr(platform, "target_device_kind", lambda: "a card that is not here")
    assert choose("float16", 14, 14, 8, 20, 3, True) == "cudnn"
    for told, expected in (((8, 9), "pallas_gpu"), ((9, 0), "cudnn"), ((10, 0), "cudnn")):
        with traced_with_capability(told):
            assert choose("bfloat16", 14, 14, 8, 20, 3, True) == expected


def test_each_entry_says_why():
    assert all(len(entry.because) > 20 for entry in choice.TABLE)


def test_auto_says_once_per_kind_of_call_what_it_chose(caplog):
    ones = jnp.ones((1, 2, 3, 1, 5))
    layer = AAConv2D(3, 8, 3, num_heads=2, key_depth=6, value_depth=4, spatial_shape=(3, 5), rngs=nnx.Rngs(0))
    with caplog.at_level("INFO", logger="aa_flax"):
        for _ in range(2):
            ops.relative_attention_2d(ones, ones, jnp.ones((1, 2, 3, 1, 17)), None, None)
            layer(jnp.ones((1, 3, 5, 3)))
    assert [record.message for record in caplog.records] == [
        f"relative attention: folded_pieces for {call} ({choice.TABLE[-1].because})"
        for call in (
            Call("cpu", "float32", 2, 3, 1, 5, 17, False, 27),
            Call("cpu", "float32", 3, 5, 2, 3, 2, True, 3),
        )
    ]


def test_an_ambient_mesh_says_where_the_program_will_run():
    assert target_platform() == "cpu"
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert jax.jit(lambda x: x if target_platform() == "cpu" else 2 * x)(1) == 1
