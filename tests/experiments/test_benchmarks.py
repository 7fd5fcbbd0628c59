"""What the benchmarks promise: turns in both orders, the networks' shapes, PyTorch's versions as the same functions."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv2D
from experiments.benchmarks import agreement, timing
from experiments.benchmarks.cases import CASES, HEADS


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
