"""Tests of attention in pieces of every kind: values, memory, and the split over devices without communication."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax.ops import folded_pieces as module
from aa_flax.ops.folded import folded
from aa_flax.ops.folded_pieces import folded_pieces
from aa_flax.ops.mesh import Shares
from aa_flax.ops.pieces import ELSEWHERE, ON_CPU, Budget, Pieces, budget
from aa_flax.ops.platform import traced_for

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle

# b, h, w, n, dk, dv, and the most bytes of a piece's weights; the weights of a 3x5 map take 900 bytes in float32.
KINDS = {
    "maps": ((2, 3, 5, 7, 11, 13), 2700),  # 3 of 14 maps, the last piece padded
    "one map": ((3, 5, 2, 2, 7, 1), 500),
    "rows": ((2, 5, 3, 2, 3, 2), 400),  # 2 of 5 rows
    "columns": ((1, 3, 5, 2, 5, 4), 180),  # 3 of 5 columns
    "queries": ((2, 2, 3, 1, 3, 3), 1),
    "one row": ((2, 1, 7, 3, 5, 2), 100),
}


WAYS = ("one device", "unknown devices")  # what a trace without a mesh may know of the devices


def limited(monkeypatch, piece, way="one device"):
    monkeypatch.setattr(module, "budget", lambda: Budget(0, piece))
    monkeypatch.setattr(Budget, "of_each", lambda self, images: self)
    seen_from(monkeypatch, way)


def seen_from(monkeypatch, way):
    monkeypatch.setattr(module, "shares", lambda *_: Shares(None, None, unknown=way == "unknown devices"))


def with_gradients(attend, arrays, cotangent, scale):
    present = [i for i, x in enumerate(arrays) if x is not None]

    def weighted(*given):
        full = [None] * 5
        for i, x in zip(present, given, strict=True):
            full[i] = x
        output = attend(*full, scale)
        return jnp.sum((output * cotangent).astype(jnp.float32)), output

    run = jax.jit(jax.value_and_grad(weighted, tuple(range(len(present))), has_aux=True))
    (_, output), gradients = run(*(arrays[i] for i in present))
    return [output, *gradients]


@pytest.mark.few(2, thorough=9)
@pytest.mark.parametrize(("way", "tables"), [(WAYS[0], True), (WAYS[0], False), (WAYS[1], True)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_five_gradients_equal_brute_force(rng, monkeypatch, kind, way, tables):
    size, piece = KINDS[kind]
    limited(monkeypatch, piece, way)
    arrays = oracle.inputs(rng, *size, tables=tables)
    cotangent = rng.normal(size=arrays[2].shape).astype(np.float32)
    expected, gradients = oracle.attend(*arrays, 0.4, cotangent)
    found = with_gradients(folded_pieces, arrays, cotangent, 0.4)
    # float32 sums of at most 35 terms of order one: a few hundred roundings of 6e-8
    for ours, wanted in zip(found, [expected, *(g for g in gradients if g is not None)], strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.few(1, thorough=4)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 8, 16])
def test_equals_the_whole_fold_at_every_value_depth(rng, monkeypatch, depth):
    limited(monkeypatch, 3000)
    arrays = oracle.inputs(rng, 3, 5, 7, 2, 11, depth)
    cotangent = rng.normal(size=arrays[2].shape).astype(np.float32)
    for ours, whole in zip(
        *(with_gradients(attend, arrays, cotangent, 0.3) for attend in (folded_pieces, folded)), strict=True
    ):
        np.testing.assert_allclose(ours, whole, rtol=2e-5, atol=2e-5)


@pytest.mark.few
@pytest.mark.parametrize("kind", ["maps", "rows"])
def test_float64_is_not_cut_to_float32(rng, monkeypatch, kind):
    size, piece = KINDS[kind]
    limited(monkeypatch, 2 * piece)
    with jax.enable_x64(True):
        arrays = oracle.inputs(rng, *size, dtype=jnp.float64)
        cotangent = rng.normal(size=arrays[2].shape)
        _, gradients = oracle.attend(*arrays, 0.7, cotangent)
        for ours, wanted in zip(with_gradients(folded_pieces, arrays, cotangent, 0.7)[1:], gradients, strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.few
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", ["maps", "columns"])
def test_half_precision_is_as_near_as_the_whole_fold(rng, monkeypatch, kind, dtype):
    size, piece = KINDS[kind]
    limited(monkeypatch, piece)
    arrays = [jnp.asarray(x, dtype) for x in oracle.inputs(rng, *size)]
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), dtype)
    wide = [np.asarray(x, np.float64) for x in (*arrays, cotangent)]
    expected, gradients = oracle.attend(*wide[:5], 0.3, wide[5])
    ours, whole = (with_gradients(attend, arrays, cotangent, 0.3) for attend in (folded_pieces, folded))
    for mine, other, wanted in zip(ours, whole, [expected, *gradients], strict=True):
        assert mine.dtype == dtype
        errors = [np.abs(np.asarray(x, np.float64) - wanted).max() for x in (mine, other)]
        # Both round the operands of products and the result, and either may have the larger error.
        assert errors[0] <= 2 * errors[1] + float(jnp.finfo(dtype).eps) * np.abs(wanted).max()


@pytest.mark.parametrize("way", WAYS)
def test_large_logits_do_not_overflow(rng, monkeypatch, way):
    limited(monkeypatch, 300, way)
    arrays = oracle.inputs(rng, 1, 3, 5, 2, 7, 3)
    arrays[0] *= 300
    expected, _ = oracle.attend(*arrays, 1.0)
    # logits near 3000 carry a float32 rounding of 2e-4
    np.testing.assert_allclose(folded_pieces(*arrays, 1.0), expected, atol=2e-3)


@pytest.mark.thorough
def test_second_derivatives_in_reverse(rng, monkeypatch):
    limited(monkeypatch, 300)
    arrays = oracle.inputs(rng, 1, 2, 3, 2, 3, 2)

    def slope(attend):
        return jax.grad(lambda q: jnp.sum(jax.grad(lambda q: jnp.sum(attend(q, *arrays[1:], 0.5) ** 2))(q) ** 2))

    np.testing.assert_allclose(slope(folded_pieces)(arrays[0]), slope(folded)(arrays[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
def test_under_vmap(rng, monkeypatch, way):
    limited(monkeypatch, 300, way)
    arrays = oracle.inputs(rng, 3, 2, 5, 2, 3, 7)
    one = jax.vmap(lambda q, k, v: folded_pieces(q[None], k[None], v[None], *arrays[3:], 0.5)[0])
    np.testing.assert_allclose(one(*arrays[:3]), folded(*arrays, 0.5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 14, 14), (13, 28, 28), (5, 32, 31), (2, 160, 160), (3, 7, 1021)])
@pytest.mark.parametrize("limit", [1, 4096, ON_CPU.piece, ELSEWHERE.piece])
def test_pieces_cover_all_queries_within_the_budget(size, limit):
    pieces = Pieces.within(limit, *size, 4)
    maps, height, width = size
    assert all(filled >= length for filled, length in zip(pieces.filled, size, strict=True))
    queries = pieces.group * pieces.rows * pieces.columns
    assert queries * height * width * 4 <= limit or queries == 1
    # Pieces have nearly equal size: each piece has less than one row of padding.
    steps = pieces.steps
    assert pieces.filled[0] - maps < steps[0] and pieces.filled[1] - height < steps[1]
    assert pieces.filled[2] - width < steps[2]
    assert pieces.group == 1 or (pieces.rows, pieces.columns) == (height, width)
    assert pieces.rows == 1 or pieces.columns == width


def test_the_budget_is_that_of_the_device():
    assert budget() == ON_CPU
    with traced_for("gpu"):
        assert budget() == ELSEWHERE


def temporary(attend, batch, side, heads=8, value_depth=1):
    maps = (batch, side, side, heads)
    shapes = [(*maps, 20), (*maps, 20), (*maps, value_depth), (2 * side - 1, 20), (2 * side - 1, 20)]

    def both(cotangent, *arrays):
        output, pullback = jax.vjp(functools.partial(attend, scale=0.2), *arrays)
        return output, pullback(cotangent)

    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (shapes[2], *shapes)]
    return jax.jit(both).lower(*structs).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.few(0)
@pytest.mark.parametrize("way", WAYS)
def test_memory_is_a_small_part_of_the_fold_and_grows_with_the_places_only(monkeypatch, way):
    seen_from(monkeypatch, way)
    pieces = temporary(folded_pieces, 8, 64)
    assert pieces <= temporary(folded, 8, 64) / 16
    # The map has four times the locations; table rows by pair of coordinates, shared by all images, add little.
    assert temporary(folded_pieces, 8, 128) <= 4.5 * pieces


def mesh_of(kind=AxisType.Auto, **sizes):
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


@pytest.mark.few
@pytest.mark.parametrize(
    ("sizes", "split", "ambient"),
    [
        ({"data": 8}, ("data",), True),
        ({"data": 4, "model": 2}, ("data", None, None, "model"), True),
        ({"data": 2, "model": 4}, ("data",), True),  # 4 devices do not divide 6 heads
        ({"rows": 8}, ("rows",), True),  # an axis of the user's own
        ({"data": 8}, ("data",), False),
    ],
    ids=str,
)
def test_devices_compute_their_own_images(rng, monkeypatch, sizes, split, ambient):
    monkeypatch.setattr(module, "budget", lambda: Budget(0, 2000))
    arrays = oracle.inputs(rng, 16, 3, 5, 6, 5, 2)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), jnp.float32)
    expected = with_gradients(folded, arrays, cotangent, 0.5)
    mesh = mesh_of(**sizes)
    maps, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (split, ()))
    placed = [jax.device_put(x, maps) for x in (cotangent, *arrays[:3])] + [
        jax.device_put(x, whole) for x in arrays[3:]
    ]

    def both(cotangent, *arrays):
        output, pullback = jax.vjp(functools.partial(folded_pieces, scale=0.5), *arrays)
        return [output, *pullback(cotangent)]

    with jax.set_mesh(mesh) if ambient else jax.default_device(None):
        compiled = jax.jit(both).lower(*placed).compile()
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    for ours, wanted in zip(compiled(*placed), expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.few
@pytest.mark.parametrize("check", [True, False])
def test_inside_a_users_shard_map(rng, monkeypatch, check):
    monkeypatch.setattr(module, "budget", lambda: Budget(0, 2000))
    arrays = oracle.inputs(rng, 8, 3, 5, 2, 5, 2)
    cotangent = jnp.asarray(rng.normal(size=arrays[2].shape), jnp.float32)
    maps = PartitionSpec("rows")

    def split(*arrays_and_scale):
        run = jax.shard_map(
            lambda *arrays: folded_pieces(*arrays, arrays_and_scale[5]),
            mesh=mesh_of(rows=4),
            in_specs=(maps,) * 3 + (PartitionSpec(),) * 2,
            out_specs=maps,
            check_vma=check,
        )
        return run(*arrays_and_scale[:5])

    for ours, whole in zip(*(with_gradients(f, arrays, cotangent, 0.5) for f in (split, folded)), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.few
@pytest.mark.parametrize("images", [8, 3])
def test_a_mesh_whose_shardings_are_part_of_the_types(rng, monkeypatch, images):
    monkeypatch.setattr(module, "budget", lambda: Budget(0, 2000))
    arrays = oracle.inputs(rng, images, 3, 5, 2, 5, 2)
    mesh = mesh_of(AxisType.Explicit, data=8)
    with jax.set_mesh(mesh):
        spec = PartitionSpec("data" if images == 8 else None)
        placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x in arrays[:3]]
        output = jax.jit(functools.partial(folded_pieces, scale=0.5))(*placed, *arrays[3:])
    np.testing.assert_allclose(output, folded(*arrays, 0.5), rtol=1e-5, atol=1e-5)
