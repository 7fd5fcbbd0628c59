"""What the benchmarks promise: their counts for a TPU v5e, and that PyTorch's versions are the same functions."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis.provenance import ROOT
from aa_flax.layers import AAConv2D
from experiments.benchmarks import agreement, timing
from experiments.benchmarks.cases import CASES, HEADS

RESULTS = ROOT / "experiments" / "results"
COUNTS = sorted(RESULTS.glob("attention_v5e_jax*.json"))
MEMORY = sorted(RESULTS.glob("attention_memory_cpu_jax*.json"))


def _scaling(result, implementation):
    return {row["side"]: row for row in result["scaling"] if row["implementation"] == implementation and row["fits"]}


def test_the_counts_are_there():
    names = {file.name for file in (*COUNTS, *MEMORY)}
    for version in ("0.10.2", "0.12.0.1"):
        assert {f"attention_v5e_jax{version}.json", f"attention_memory_cpu_jax{version}.json"} <= names


@pytest.mark.parametrize("file", COUNTS, ids=lambda file: file.name)
def test_a_v5e_moves_little_for_attention(file):
    rows = [row for row in json.loads(file.read_text())["layers_forward"] if row["implementation"] == "pallas_tpu"]
    assert [(row["batch"], row["side"], row["channels"]) for row in rows] == [
        (256, 14, 256),
        (64, 28, 128),
        (32, 32, 160),
    ]
    for row in rows:
        assert row["bytes_moved"] <= 0.30e9
        # The map in and the result out, in bfloat16, are the least there is.
        least = 2 * row["batch"] * row["places"] * (row["channels"] + row["value_depth"])
        assert least <= row["custom_call_estimate"] <= row["custom_call_bytes"] <= row["bytes_moved"]


@pytest.mark.parametrize("file", COUNTS, ids=lambda file: file.name)
def test_memory_of_the_kernel_grows_at_most_with_the_map(file):
    result = json.loads(file.read_text())
    memory = "temporary_bytes_all_in_hbm"
    kernel, paper, folded = (_scaling(result, name) for name in ("pallas_tpu", "paper", "folded"))
    assert sorted(kernel) == sorted({row["side"] for row in result["scaling"]})  # the kernel serves every map
    # Four times the places. Parameters and their gradients, the same for all maps, make it less.
    assert kernel[80][memory] <= 4 * kernel[40][memory]
    assert folded[56][memory] >= 10 * folded[28][memory]
    assert paper[56][memory] >= 1000 * kernel[56][memory]


@pytest.mark.parametrize("file", MEMORY, ids=lambda file: file.name)
def test_memory_of_the_paper_grows_with_the_square_of_the_map(file):
    paper, folded = (_scaling(json.loads(file.read_text()), name) for name in ("paper", "folded"))
    for side in (28, 40):
        ratio = paper[2 * side]["temporary_bytes"] / paper[side]["temporary_bytes"]
        assert 15 <= ratio <= 17
        assert folded[2 * side]["temporary_bytes"] < paper[2 * side]["temporary_bytes"]


def test_programs_take_turns_in_both_orders():
    ran = []
    programs = {name: lambda times, name=name: ran.append(name) for name in "ab"}
    times = timing.take_turns(programs, rounds=4, seconds=0)
    assert {name: len(measured) for name, measured in times.items()} == {"a": 3, "b": 3}  # at least three rounds
    assert "".join(ran[-12:]) == "aabbbbaaaabb"


def test_cases_are_the_networks_attention():
    by_shape = {(case.height, case.in_features): HEADS * case.value_depth for case in CASES}
    # AA-ResNet-50, kappa = 2 upsilon = 0.2
    for side, features, value_depth in ((14, 128, 8), (14, 256, 24), (7, 512, 48)):
        layer = AAConv2D(features, features, 3, spatial_shape=(side, side), rngs=nnx.Rngs(0))
        assert by_shape[side, features] == layer.value_depth == value_depth


def test_pytorch_versions_agree_with_the_reference():
    pytest.importorskip("torch")
    agreement.check_attention("cpu")


@pytest.mark.parametrize("einsum", [True, False])
def test_the_pytorch_layer_agrees_with_ours(einsum):
    pytest.importorskip("torch")
    from experiments.benchmarks.layer import twin

    layer = AAConv2D(11, 19, 3, num_heads=2, value_depth=6, spatial_shape=(5, 7), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 11)).astype(np.float32)
    agreement.check_layer(layer, twin(layer, einsum=einsum), x)
    assert layer(jnp.asarray(x)).shape == (2, 5, 7, 19)
