"""Tests of the kernels under unusual settings of the caller: inside a `shard_map`, and with 64-bit numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from aa_flax.ops import relative_attention_2d
from aa_flax.ops.platform import traced_for
from aa_flax.ops.reference import reference


def arguments(rng, dtype="float32"):
    sizes = [(8, 3, 5, 2, 4), (8, 3, 5, 2, 4), (8, 3, 5, 2, 3), (5, 4), (9, 4)]
    return [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]


@pytest.mark.few(2)
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("checked", [True, False])
def test_gradients_inside_a_shard_map_of_the_caller(rng, platform, checked):
    """The gradient is only traced: the device is absent, and the kernels' interpreter refuses a checked `shard_map`."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec("data"),) * 3 + (PartitionSpec(),) * 2
    arrays = arguments(rng)

    def total(*arrays):
        return jax.lax.psum(relative_attention_2d(*arrays, implementation=f"pallas_{platform}").sum(), "data")

    split = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=checked)
    with traced_for(platform):
        gradients = jax.make_jaxpr(jax.grad(split, argnums=tuple(range(5))))(*arrays)
    assert str(gradients).count("pallas_call") >= 2
    assert [each.shape for each in gradients.out_avals] == [each.shape for each in arrays]


@pytest.mark.thorough
@pytest.mark.parametrize("implementation", ["pallas_gpu_interpret", "pallas_tpu_interpret"])
def test_where_numbers_have_64_bits(rng, implementation):
    def run(attend, *arrays):
        output, pullback = jax.vjp(attend, *arrays)
        return [output, *pullback(jnp.cos(output))]

    with jax.enable_x64(True):
        arrays = arguments(rng)
        got = run(lambda *a: relative_attention_2d(*a, implementation=implementation), *arrays)
        assert all(each.dtype == jnp.float32 for each in got)
        wanted = run(lambda *a: reference(*a, scale=0.5), *(array.astype(jnp.float64) for array in arrays))
    for ours, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)
