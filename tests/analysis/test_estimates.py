"""Tests of the costs that the authors of kernels state, summed over a traced program."""

import jax
import jax.numpy as jnp
import pytest
from absent_gpu import absent_gpu
from jax.experimental import pallas as pl

from aa_flax import ops
from aa_flax.analysis.estimates import estimated_flops


def copied(x, flops=None):
    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...]

    estimate = None if flops is None else pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=0)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, cost_estimate=estimate, interpret=True)(x)


def test_loops_count_their_trips_and_conditionals_their_smallest_branch():
    def program(x, which):
        x = jax.jit(lambda x: copied(copied(x, 7)))(x)  # the outer call states no cost
        x, _ = jax.lax.scan(lambda x, _: (copied(x, 11), None), x, length=5)
        x = jax.checkpoint(lambda x: copied(x, 100))(x)
        return jax.lax.cond(which, lambda x: copied(x, 13), lambda x: copied(copied(x, 17), 19), x)

    traced = jax.jit(program).trace(jnp.zeros((3, 5)), True)
    assert estimated_flops(traced) == 7 + 5 * 11 + 100 + 13


@pytest.mark.parametrize("positions", [True, False])
def test_attention_on_a_gpu(positions):
    """The forward pass multiplies each query with each key and value, and with the h + w table rows of its offsets."""
    b, h, w, n, dk, dv = 2, 5, 7, 3, 20, 4
    tables = [(2 * h - 1, dk), (2 * w - 1, dk)] if positions else []
    shapes = [(b, h, w, n, dk), (b, h, w, n, dk), (b, h, w, n, dv), *tables]

    def attend(*arrays):
        return ops.relative_attention_2d(*arrays, *[None] * (5 - len(arrays)), implementation="pallas_gpu")

    def summed(*arrays):
        return attend(*arrays).astype(jnp.float32).sum()

    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    with absent_gpu():
        forward = estimated_flops(jax.jit(attend).trace(*inputs))
        both = estimated_flops(jax.jit(jax.grad(summed, range(len(inputs)))).trace(*inputs))
    queries = b * n * h * w
    assert forward == 2 * queries * (h * w * (dk + dv) + (h + w) * dk * positions)
    # The gradients need at least five products where the forward pass has two; our kernels compute the logits and their
    # gradient twice, and the position terms too.
    least = 2 * queries * h * w * (3 * dk + 2 * dv)
    assert forward + least < both < forward + (2 + positions) * least
