"""The fold in cuDNN's clothes, computed by XLA; the engine itself needs a GPU (`-m gpu`)."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax import ops
from aa_flax.ops.cudnn import cudnn, folded_width

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle


@pytest.mark.parametrize("dv", [1, 3, 8, 40])
@pytest.mark.parametrize(("width", "tables"), [(7, True), (7, False), (6, True)])
def test_padded_fold_equals_the_definition(rng, dv, width, tables):
    """With a place more at 5×7; 11 + 5 + 7 and 11 + 5 + 6 channels leave none free for it, and one."""
    arrays = oracle.inputs(rng, 2, 5, width, 3, 11, dv, tables=tables)
    half = [x if x is None else jnp.asarray(x, jnp.float16) for x in arrays]
    exact = [x if x is None else np.asarray(x, np.float64) for x in half]
    cotangent = np.asarray(jnp.asarray(rng.normal(size=half[2].shape), jnp.float16))
    expected, gradients = oracle.attend(*exact, 0.25, cotangent)
    present = [x for x in half if x is not None]

    def attend(*arrays):
        return cudnn(*arrays, *[None] * (5 - len(arrays)), 0.25, engine="xla")

    output, pullback = jax.vjp(attend, *present)
    # float16 rounds to 5e-4; sums of 35 products of factors rounded once or twice
    np.testing.assert_allclose(output, expected, atol=2e-2)
    for gradient, wanted in zip(pullback(cotangent), [g for g in gradients if g is not None], strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=2e-2 * max(1, np.abs(wanted).max()))


def test_split_over_a_mesh_it_computes_the_same(rng):
    arrays = oracle.inputs(rng, 8, 3, 5, 2, 7, 3, dtype=jnp.bfloat16)
    attend = functools.partial(cudnn, scale=0.25, engine="xla")
    run = jax.jit(lambda *arrays: jax.value_and_grad(lambda *a: attend(*a).sum(), range(5))(*arrays))
    _, expected = run(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = [
            jax.device_put(x, jax.NamedSharding(mesh, jax.P(*(["data"] if i < 3 else []))))
            for i, x in enumerate(arrays)
        ]
        assert "shard_map" in str(jax.make_jaxpr(attend)(*split))
        _, gradients = run(*split)
        with pytest.raises(ValueError, match="'cudnn' splits a batch over the mesh's data axis of 8; a batch of 3"):
            attend(*(x[:3] if i < 3 else x for i, x in enumerate(arrays)))
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-2 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("scale", [1e-4, -0.5, 30.0])
def test_the_place_more_gets_no_weight_whatever_the_scale(rng, scale):
    arrays = [jnp.asarray(x, jnp.float16) for x in oracle.inputs(rng, 1, 3, 5, 2, 4, 2)]
    expected = ops.relative_attention_2d(*arrays, implementation="reference", scale=scale)
    np.testing.assert_allclose(cudnn(*arrays, scale, engine="xla"), expected, atol=2e-2)
    with pytest.raises(ValueError, match="no scale of 0 for 3x5 places"):
        cudnn(*arrays, 0.0, engine="xla")


def test_folded_width():
    assert folded_width(14, 14, 20, 3, True) == 48
    assert folded_width(7, 7, 20, 6, True) == 40
    assert folded_width(5, 11, 24, 6, True) == 48
    assert folded_width(28, 28, 20, 3, True) == 80
    assert folded_width(28, 28, 20, 3, False) == 24
    assert folded_width(3, 5, 2, 40, True) == 40


def test_what_it_cannot_serve_is_said(rng):
    arrays = oracle.inputs(rng, 1, 2, 3, 1, 5, 3)
    with pytest.raises(TypeError, match="bfloat16 or float16, got float32; use 'folded'"):
        ops.relative_attention_2d(*arrays, implementation="cudnn")
    wide = oracle.inputs(rng, 1, 64, 60, 1, 20, 3, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="at most 128, got 144 for a 64x60 map"):
        ops.relative_attention_2d(*wide, implementation="cudnn")
    if jax.default_backend() != "gpu":
        half = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
        with pytest.raises(RuntimeError, match="'cudnn' is not to be had here"):
            ops.relative_attention_2d(*half, implementation="cudnn")


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 28), (32, 32), (5, 11)])
def test_on_the_gpu_as_by_xla(rng, size):
    arrays = oracle.inputs(rng, 2, *size, 8, 20, 3, dtype=jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), jnp.bfloat16)

    def both(engine):
        output, pullback = jax.vjp(functools.partial(cudnn, scale=20**-0.5, engine=engine), *arrays)
        return [output, *pullback(cotangent)]

    for ours, theirs in zip(both("cudnn"), both("xla"), strict=True):
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=3e-2 * max(1, np.abs(theirs).max()))
