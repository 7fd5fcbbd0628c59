"""What the benchmarks promise: turns in both orders, the networks' shapes, PyTorch's versions as the same functions."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv2D
from experiments.benchmarks import agreement, attention, quickstart_pairs, timing
from experiments.benchmarks.cases import CASES, HEADS


def test_the_interval_of_a_mean_difference():
    # Student's sleep data (1908), ten pairs: mean 1.58, 95 % from 0.70 to 2.46
    differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = quickstart_pairs.difference(differences)
    assert found["mean"] == pytest.approx(1.58)
    assert found["interval_95"] == pytest.approx([0.70, 2.46], abs=0.005)
    assert quickstart_pairs.difference([0.5]) == {"mean": 0.5, "interval_95": None}


def test_programs_take_turns_in_both_orders():
    ran = []
    programs = {name: lambda times, name=name: ran.append(name) for name in "ab"}
    times = timing.take_turns(programs, rounds=4, seconds=0)
    assert {name: len(measured) for name, measured in times.items()} == {"a": 3, "b": 3}  # at least three rounds
    assert "".join(ran[-12:]) == "aabbbbaaaabb"


def test_speedups_are_to_the_paper_and_to_the_whole_fold():
    times = {"paper": 12.0, "folded": 6.0, "folded_pieces": 2.0}
    where = {"network": "n", "map": "8x8", "value_depth_per_head": 1}
    rows = [{**where, "implementation": k, "forward_ms": v, "forward_backward_ms": 3 * v} for k, v in times.items()]
    expected = {"fastest": "folded_pieces", "over_paper": 6.0, "over_folded": 3.0}
    assert attention.speedups(rows) == {"n 8x8 dv1": {"forward": expected, "forward_backward": expected}}


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
