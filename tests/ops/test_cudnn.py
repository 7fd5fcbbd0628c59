"""Tests of the fold in the form that cuDNN takes, computed by XLA; cuDNN itself needs a GPU (`-m gpu`)."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax import ops
from aa_flax.ops.cudnn import cudnn, folded_width
from aa_flax.ops.platform import traced_for

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle


def _as_defined(arrays, scale, cotangent, atol):
    half = [x for x in arrays if x is not None]
    exact = [x if x is None else np.asarray(x, np.float64) for x in arrays]
    expected, gradients = oracle.attend(*exact, scale, np.asarray(cotangent, np.float64))

    def attend(*arrays):
        return cudnn(*arrays, *[None] * (5 - len(arrays)), scale, engine="xla")

    def run(cotangent, *arrays):
        output, pullback = jax.vjp(attend, *arrays)
        return output, pullback(cotangent)

    # XLA compiles no product of float16 that adds in float32 for a CPU; operation by operation there is one.
    output, found = (run if cotangent.dtype == jnp.float16 else jax.jit(run))(cotangent, *half)
    np.testing.assert_allclose(np.asarray(output, np.float64), expected, atol=atol)
    for gradient, wanted in zip(found, [g for g in gradients if g is not None], strict=True):
        np.testing.assert_allclose(np.asarray(gradient, np.float64), wanted, atol=atol * max(1, np.abs(wanted).max()))


@pytest.mark.few(0, thorough=3)
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize(
    ("size", "dk", "dv"),
    [
        ((5, 7), 11, 1),  # 35 locations, and a spare channel that hides the added one
        ((5, 7), 11, 3),
        ((5, 7), 12, 8),  # no spare channel: 12 + 5 + 7
        ((3, 7), 8, 40),
        ((4, 7), 11, 3),
    ],
)
def test_padded_fold_equals_the_definition(rng, size, dk, dv, tables):
    arrays = oracle.inputs(rng, 2, *size, 3, dk, dv, tables=tables, dtype=jnp.float16)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), jnp.float16)
    # float16 rounds to 5e-4; sums of 35 products of factors rounded once or twice
    _as_defined(arrays, 0.25, cotangent, 2e-2)


@pytest.mark.few
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [0.0, 1e-7, -0.3, 1.0, 7.0])
def test_the_place_added_stays_hidden_at_any_scale(rng, scale, dtype):
    *arrays, _, _ = oracle.inputs(rng, 2, 3, 5, 2, 7, 3, tables=False, dtype=dtype)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), dtype)
    # the same numbers with 15 weights rounded to 8 or 11 bits
    _as_defined([*arrays, None, None], scale, cotangent, 5e-2 if dtype == jnp.bfloat16 else 1e-2)


@pytest.mark.parametrize("scale", [0.25, -0.25])
def test_the_place_added_stays_hidden_below_logits_of_minus_30000(rng, scale):
    query, key, value, _, _ = oracle.inputs(rng, 1, 3, 5, 2, 11, 3, tables=False, dtype=jnp.float16)
    far = jnp.full_like(query[..., :1], 350)
    query, key = (jnp.concatenate([x, sign * far], -1) for x, sign in ((query, 1), (key, -1 if scale > 0 else 1)))
    output = cudnn(query, key, value, None, None, scale, engine="xla")
    expected, _ = oracle.attend(query, key, value, None, None, scale)
    np.testing.assert_allclose(output, expected, atol=1e-2)  # float32 resolves logits of 30000 to 2e-3


@pytest.mark.thorough
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


def test_folded_width():
    assert folded_width(14, 14, 20, 3, True) == 48
    assert folded_width(28, 28, 20, 3, True) == 80
    assert folded_width(28, 28, 20, 3, False) == 24
    assert folded_width(3, 5, 2, 40, True) == 40
    assert folded_width(7, 7, 10, 3, True) == 32  # 24, and the channel that hides the added location
    assert folded_width(7, 8, 9, 3, True) == 24


def test_what_it_cannot_serve_is_said(rng):
    arrays = oracle.inputs(rng, 1, 2, 3, 1, 5, 3)
    with pytest.raises(TypeError, match="bfloat16 or float16, got float32; use 'folded'"):
        ops.relative_attention_2d(*arrays, implementation="cudnn")
    wide = oracle.inputs(rng, 1, 64, 60, 1, 20, 3, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="at most 128, got 144 for a 64x60 map"):
        ops.relative_attention_2d(*wide, implementation="cudnn")
    deep = oracle.inputs(rng, 1, 2, 3, 1, 5, 129, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="value depth of at most 128 per head, got 129; use 'folded'"):
        cudnn(*deep, 0.25, engine="xla")


def test_where_it_cannot_run_is_said(rng, monkeypatch):
    half = oracle.inputs(rng, 1, 2, 3, 1, 5, 3, dtype=jnp.bfloat16)
    with traced_for("tpu"), pytest.raises(RuntimeError, match="cannot run here: .* traced for a tpu; use 'folded'"):
        ops.relative_attention_2d(*half, implementation="cudnn")
    monkeypatch.setattr(sys.modules["aa_flax.ops.cudnn"], "target_capability", lambda: (7, 5))
    with traced_for("gpu"), pytest.raises(RuntimeError, match=r"capability 8.0 or newer, got 7.5; use 'folded'"):
        cudnn(*half, 0.25)


@pytest.mark.few
@pytest.mark.parametrize("size", [(7, 7), (5, 11), (4, 7)])
def test_jax_takes_it_with_gradients_for_a_gpu_that_is_not_here(size, monkeypatch):
    """JAX checks shapes while it traces, and the lowered text has cuDNN's custom calls; cuDNN itself is absent."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91900)
    shapes = _shapes(2, *size)
    with traced_for("gpu"):
        text = jax.jit(_gradients).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    places, width = size[0] * size[1] + size[0] * size[1] % 2, folded_width(*size, 20, 3, True)
    for call in ("__cudnn$fmhaSoftmax(", "__cudnn$fmhaSoftmaxBackward("):
        (line,) = (line for line in text.splitlines() if f"@{call}" in line)
        assert f"tensor<2x{places}x8x{width}xbf16>" in line


@pytest.mark.h100
@pytest.mark.parametrize("size", [(7, 7), (5, 11), (14, 14)])
def test_xla_compiles_it_with_gradients_for_an_h100(size):
    from aa_flax.analysis import count

    text = count("h100:1", _gradients, *_shapes(2, *size)).compiled.as_text()
    assert text.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"') == 1


def _gradients(*arrays):
    return jax.grad(lambda *arrays: cudnn(*arrays, 20**-0.5).sum().astype(jnp.float32), range(5))(*arrays)


def _shapes(b, h, w, n=8, dk=20, dv=3):
    shapes = [(b, h, w, n, dk), (b, h, w, n, dk), (b, h, w, n, dv), (2 * h - 1, dk), (2 * w - 1, dk)]
    return [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]


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
