"""Tests of logits of 2**31 and more, whose rounding error is larger than what an exponential can take.

A compiler fuses `scale * product - largest` into one instruction that rounds once; see `aa_flax.ops.scaling`.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AttentionPooling
from aa_flax.ops.cudnn import cudnn
from aa_flax.ops.pieces import Budget
from aa_flax.ops.relative_attention import IMPLEMENTATIONS, relative_attention_weights_2d

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle

EVERY = ("folded", "folded_pieces", "pallas_gpu_interpret", "pallas_tpu_interpret", "reference", "paper")
LARGE = {"float32": 2.0**17, "bfloat16": 2.0**17, "float16": 6e4}
# a sum of some ten numbers, each rounded once or twice
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 2e-3}


def inputs(rng, dtype, *, ties, tables=True):
    """Return arrays whose logits exceed 2**31: all of a query equal, or each far from the next."""
    query, key, value, *positions = oracle.inputs(rng, 1, 2, 3, 2, 5, 2, tables=tables)
    if ties:
        query, key = jnp.ones_like(query), jnp.ones_like(key)
        positions = [None if table is None else jnp.ones_like(table) for table in positions]
    query, key = (
        LARGE[dtype] * jnp.sign(array) * (1 + jnp.abs(array) / jnp.abs(array).max()) / 2 for array in (query, key)
    )
    return [None if array is None else array.astype(dtype) for array in (query, key, value, *positions)]


def assert_right(attend, arrays, scale, cotangent):
    exact = [None if array is None else np.asarray(array, np.float64) for array in arrays]
    output, gradients = oracle.attend(*exact, scale, np.asarray(cotangent, np.float64))
    assert abs(scale) * np.abs(np.einsum("byxnd,bvund->byxnvu", *exact[:2])).max() >= 2**31

    @jax.jit
    def run(cotangent, *given):
        found, pullback = jax.vjp(lambda *given: attend(*given, *[None] * (5 - len(given)), scale), *given)
        return [found, *pullback(cotangent)]

    found = run(cotangent, *(array for array in arrays if array is not None))
    query, key = (np.abs(array).max() for array in exact[:2])
    # the numbers of which a gradient is a sum; those of the query cancel if all keys are equal
    sizes = (1.0, abs(scale) * key, abs(scale) * query, 1.0, abs(scale) * query, abs(scale) * query)
    wanted = [output, *(gradient for gradient in gradients if gradient is not None)]
    for ours, theirs, size in zip(found, wanted, sizes, strict=False):
        bound = TOLERANCE[str(arrays[0].dtype)] * max(size, np.abs(theirs).max())
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=bound)


@pytest.mark.few(3, thorough=22)
@pytest.mark.parametrize("implementation", EVERY)
@pytest.mark.parametrize("scale", [5**-0.5, -0.7])
@pytest.mark.parametrize("tables", [True, False], ids=["relative", "no_position"])
@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("ties", [True, False], ids=["ties", "apart"])
def test_weights_and_gradients(rng, monkeypatch, implementation, ties, dtype, tables, scale):
    if implementation == "pallas_tpu_interpret" and dtype == "float16":
        pytest.skip("the kernel for TPUs does not take float16")
    monkeypatch.setattr(sys.modules["aa_flax.ops.folded_pieces"], "budget", lambda: Budget(0, 200))
    arrays = inputs(rng, dtype, ties=ties, tables=tables)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), dtype)
    assert_right(IMPLEMENTATIONS[implementation], arrays, scale, cotangent)


@pytest.mark.parametrize("implementation", ["paper", "folded"])
def test_a_scale_that_float16_queries_cannot_take(rng, implementation):
    arrays = inputs(rng, "float16", ties=False)
    assert_right(IMPLEMENTATIONS[implementation], arrays, 30.0, jnp.ones(arrays[2].shape, jnp.float16))


@pytest.mark.few(1, thorough=4)
@pytest.mark.parametrize("implementation", ["pallas_tpu_interpret", "pallas_gpu_interpret"])
@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_keys_outside_the_map_have_no_weight_at_a_scale_of_zero_or_below(rng, implementation, scale):
    arrays = oracle.inputs(rng, 1, 2, 3, 1, 5, 2)
    output = jax.jit(lambda *arrays: IMPLEMENTATIONS[implementation](*arrays, scale))(*arrays)
    np.testing.assert_allclose(output, oracle.attend(*arrays, scale)[0], atol=1e-5)


def test_weights_for_people_to_look_at(rng):
    query, key, _, rel_height, rel_width = inputs(rng, "float32", ties=True)
    for queries, shape in ((None, (1, 2, 2, 3, 2, 3)), (np.array([[1, 2]]), (1, 2, 1, 2, 3))):
        found = jax.jit(functools.partial(relative_attention_weights_2d, queries=queries))(
            query, key, rel_height, rel_width
        )
        np.testing.assert_allclose(found, np.full(shape, 1 / 6), rtol=1e-6)


@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_pooling(tokens):
    layer = AttentionPooling(5, tokens=tokens, rngs=nnx.Rngs(0))
    for linear in (layer.query, layer.key):
        linear.kernel[...], linear.bias[...] = jnp.zeros((5, 5)), jnp.full(5, 2.0**17)
    graph, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(0), (2, 2, 3, 5))
    weights = jax.jit(lambda state, x: nnx.merge(graph, state).attention_weights(x))(state, x)
    np.testing.assert_allclose(weights, 1 / (7 if tokens == 1 else 6), rtol=1e-6)
    gradients = jax.jit(jax.grad(lambda state: nnx.merge(graph, state)(x).sum()))(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("scale", [0.25, -0.25])
def test_the_place_that_cudnn_needs_stays_hidden_below_them(rng, scale):
    """All logits of 15 keys are about -2**31; those of a 16th key, which makes their number even, have to be lower."""
    _, _, value, _, _ = oracle.inputs(rng, 1, 3, 5, 2, 2, 3, tables=False, dtype=jnp.bfloat16)
    query = jnp.full((1, 3, 5, 2, 2), 2.0**16, jnp.bfloat16)
    key = -query if scale > 0 else query
    output = cudnn(query, key, value, None, None, scale, engine="xla")
    mean = value.astype(jnp.float32).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(output, jnp.broadcast_to(mean, value.shape), atol=1e-2)
