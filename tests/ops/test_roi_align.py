import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ops import roi_oracle
from weights.torchvision_here import torchvision_detection

from aa_flax import ops
from aa_flax.ops.roi_choice import choose_forms

roi_align = jax.jit(
    ops.roi_align,
    static_argnames=(
        *("output_size", "strides", "sampling_ratio", "aligned", "most_samples"),
        *("canonical_size", "canonical_level", "implementation"),
    ),
)
FORMS = ("gather", "product")
SIDES, STRIDES = ((13, 17), (7, 9), (4, 5), (2, 3)), (4, 8, 16, 32)


def pyramid(rng, batch=2, channels=3, dtype=np.float32):
    return [rng.normal(size=(batch, *side, channels)).astype(dtype) for side in SIDES]


def some_boxes(rng, batch=2, number=12):
    """Return boxes of all levels on a photograph of 52×68 pixels, some partly or wholly outside, long or tiny."""
    low = rng.uniform((-15, -15), (60, 50), (batch, number, 2))
    side = 2 ** rng.uniform(2, 7, (batch, number, 2))
    boxes = np.concatenate([low, low + side], -1)
    boxes[:, 0] = [30.0, 20.0, 30.0, 20.0]  # a point
    boxes[:, 1] = [-300.0, -300.0, -200.0, -250.0]
    boxes[:, 2] = [10.0, 500.0, 20.0, 520.0]
    boxes[:, 3] = [5.0, 5.0, 5.0, 40.0]  # no width
    boxes[:, 4] = [3.0, 8.0, 460.0, 470.0]
    boxes[:, 5] = [11.3, 7.1, 11.4, 7.3]
    return boxes.astype(np.float32)


@pytest.mark.few
@pytest.mark.parametrize("form", FORMS)
def test_known_answers(form):
    """A bilinear function of the location has at each sample its own value."""
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    slope, five = 10 * rows + columns, np.arange(25).reshape(5, 5)

    def bins(map_, box, size, stride=1, **options):
        found = roi_align(
            np.asarray(map_, np.float32)[None, ..., None],
            np.array([[box]], np.float32),
            output_size=size,
            strides=stride,
            implementation=form,
            **options,
        )
        return found[0, 0, :, :, 0]

    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    close(bins(slope, (2, 2, 6, 6), 2), [[27.5, 29.5], [47.5, 49.5]])
    close(bins(slope, (2, 2, 6, 6), 2, aligned=False), [[33, 35], [53, 55]])
    close(bins(slope, (8, 16, 40, 48), 2, 4), [[58.5, 62.5], [98.5, 102.5]])
    close(bins(slope, (-4, 0, 4, 4), 2), [[0, 6.5], [0, 26.5]])
    first, down = np.array([4.5, 5, 5.5, 6]), 2.5 * np.arange(4)[:, None]
    close(bins(five, (1, 1, 3, 3), 4), first + down)
    close(bins(five, (1, 1, 3, 3), 4, aligned=False), first + 3 + down)
    close(bins(slope, (3, 3, 3.2, 3.2), 1), [[28.6]])
    close(bins(slope, (3, 3, 3.2, 3.2), 1, aligned=False), [[38.5]])


CASES = [
    (form, ratio, aligned, levels)
    for form, ratio, aligned, levels in (
        *(("gather", 2, False, 4), ("product", 0, True, 4), ("gather", 0, True, 4), ("auto", 2, True, 1)),
        *(("gather", 3, True, 1), ("product", 2, False, 1), ("product", 1, True, 4), ("auto", 0, False, 4)),
        *(("gather", 0, False, 1), ("product", 3, False, 4), ("gather", 1, False, 4), ("auto", 2, False, 4)),
    )
]


@pytest.mark.few(2)
@pytest.mark.parametrize(("form", "ratio", "aligned", "levels"), CASES)
def test_values_and_gradients_by_the_definition(rng, form, ratio, aligned, levels):
    """Boxes are wider than 8 samples in a bin, too, where `most_samples` bounds them."""
    maps, boxes, size = pyramid(rng)[:levels], some_boxes(rng), (3, 5)
    cotangent = rng.normal(size=(2, 12, *size, 3)).astype(np.float32)
    settings = dict(sampling_ratio=ratio, aligned=aligned, canonical_size=32)  # of which there are boxes of all levels

    def aligned_and_gradients(maps, boxes, cotangent):
        run = functools.partial(
            ops.roi_align, output_size=size, strides=STRIDES[:levels], implementation=form, **settings
        )
        values, pull = jax.vjp(lambda maps: run(maps, boxes), maps)
        return values, pull(cotangent)[0]

    values, gradients = jax.jit(aligned_and_gradients)(maps, boxes, cotangent)
    expected, slopes = roi_oracle.aligned_and_gradients(
        maps, boxes, cotangent, size, STRIDES[:levels], ratio=ratio, aligned=aligned, canonical=32
    )
    assert np.abs(expected).max() > 1 and (expected[:, 1:3] == 0).all()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=2e-5)
    for one, other in zip(gradients, slopes, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def level_of(sides, **options):
    """Return the level that boxes of these √areas read, from maps that are full of their level."""
    maps = [np.full((1, 3, 5, 1), number, np.float32) for number in (2, 3, 4, 5)]
    wide = np.array([[0, 0, 2 * side, side / 2] for side in sides], np.float32)[None]
    boxes = wide - np.tile(wide[..., 2:] / 2, 2) + 6  # whose middle, the only sample, lies in all maps
    found = roi_align(maps, boxes, output_size=1, strides=STRIDES, sampling_ratio=1, **options)
    return found[0, :, 0, 0, 0].tolist()


def test_levels_of_a_pyramid():
    assert level_of([1, 111.9, 112, 223.9, 224, 447.9, 448, 896]) == [2, 2, 3, 3, 4, 4, 5, 5]
    assert level_of([1, 31.9, 32, 64, 128], canonical_size=64, canonical_level=4) == [2, 2, 3, 4, 5]
    assert level_of([1, 31.9, 32, 64, 128], canonical_size=64, canonical_level=5) == [2, 3, 4, 5, 5]


@pytest.mark.parametrize("form", FORMS)
def test_a_box_with_nan_or_without_a_sample(rng, form):
    """NaN stays with its box; boxes without area read their point, or have no sample where the number is adaptive."""
    maps, boxes = rng.normal(size=(1, 7, 9, 2)).astype(np.float32), np.zeros((1, 4, 4), np.float32)
    boxes[0] = [[3.5, 2.5, 3.5, 2.5], [np.nan, 0, 3, 3], [5, 2, 5, 6], [1, 1, 6, 5]]
    run = functools.partial(roi_align, maps, output_size=2, strides=1, implementation=form)
    fixed, adaptive = run(boxes), run(boxes, sampling_ratio=0)
    np.testing.assert_allclose(fixed[0, 0], np.broadcast_to(maps[0, 2, 3], (2, 2, 2)), rtol=1e-6)
    for found in (fixed, adaptive):
        assert np.isnan(found[0, 1]).all() and not np.isnan(np.delete(found, 1, 1)).any()
    assert (adaptive[0, 0] == 0).all() and (adaptive[0, 2] == 0).all() and (fixed[0, 2] != 0).all()


def test_most_samples(rng):
    """A bin of 7 locations has 7 samples, or as many as there may be."""
    maps, box = rng.normal(size=(1, 16, 16, 2)).astype(np.float32), np.array([[[1, 1, 15, 15]]], np.float32)
    run = functools.partial(roi_align, maps, box, output_size=2, strides=1)
    seven, four = run(sampling_ratio=7), run(sampling_ratio=4)
    np.testing.assert_allclose(run(sampling_ratio=0), seven, atol=1e-6)
    np.testing.assert_allclose(run(sampling_ratio=0, most_samples=4), four, atol=1e-6)
    assert np.abs(seven - four).max() > 1e-3


def test_sides_that_the_bins_divide(rng):
    """21 locations in 7 bins take 3 samples and not 4, as the rounded product of 21 and 1 / 7 would."""
    map_, side = rng.normal(size=(1, 59, 61, 2)).astype(np.float32), 7.0 * np.arange(1, 9)
    boxes = np.stack([0 * side + 2, 0 * side + 1, 2 + side, 1 + side[::-1]], 1).astype(np.float32)[None]
    found = roi_align(map_, boxes, output_size=7, strides=1, sampling_ratio=0)
    expected = [roi_oracle.matrix([(59, 61)], box, (7, 7), [1], 0) for box in boxes[0]]
    np.testing.assert_allclose(found.reshape(8, 49, 2), expected @ map_.reshape(-1, 2), atol=2e-5)


def test_a_mirrored_photograph(rng):
    maps, boxes = rng.normal(size=(1, 9, 12, 2)).astype(np.float32), some_boxes(rng, 1)
    mirrored = boxes * [-1, 1, -1, 1] + [48.0, 0, 48, 0]
    one, other = (
        roi_align(m, np.asarray(b, np.float32), output_size=(2, 4), strides=4)
        for m, b in ((maps, boxes), (maps[:, :, ::-1], mirrored[..., [2, 1, 0, 3]]))
    )
    np.testing.assert_allclose(one, other[:, :, :, ::-1], atol=1e-4)


@pytest.mark.few
@pytest.mark.parametrize("form", FORMS)
def test_sixteen_bits_and_strict_types(rng, form):
    """The result is that of the same numbers in float32, rounded once; gradients are added in float32."""
    maps, boxes = [jnp.asarray(each, jnp.bfloat16) for each in pyramid(rng)], some_boxes(rng)

    def squares(maps, boxes):
        found = ops.roi_align(maps, boxes, output_size=3, strides=STRIDES, sampling_ratio=0, implementation=form)
        return (found.astype(jnp.float32) ** 2).sum(), found

    run = jax.jit(jax.value_and_grad(squares, has_aux=True))
    with jax.numpy_dtype_promotion("strict"):
        (_, half), slopes = run(maps, boxes)
        (_, full), wide = run([each.astype(jnp.float32) for each in maps], boxes)
    assert half.dtype == jnp.bfloat16 and slopes[0].dtype == jnp.bfloat16 and full.dtype == jnp.float32
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))
    for one, other in zip(slopes, wide, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.02, atol=0.02)


def test_boxes_get_no_gradient(rng):
    maps, boxes = pyramid(rng)[0], jnp.asarray(some_boxes(rng))
    run = functools.partial(ops.roi_align, output_size=2, strides=4)
    assert (jax.jit(jax.grad(lambda boxes: run(maps, boxes).sum()))(boxes) == 0).all()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda maps: run(maps, boxes), (jnp.asarray(maps),), (jnp.asarray(maps),))


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
def test_compilation_and_vmap_change_nothing(rng, form):
    maps, boxes = pyramid(rng), some_boxes(rng)
    run = functools.partial(ops.roi_align, output_size=3, strides=STRIDES, sampling_ratio=0, implementation=form)
    together = run(maps, boxes)
    apart = jax.jit(jax.vmap(lambda maps, boxes: run([each[None] for each in maps], boxes[None])[0]))(maps, boxes)
    np.testing.assert_allclose(apart, together, atol=1e-5)
    none = run(maps, boxes[:, :0])
    assert none.shape == (2, 0, 3, 3, 3)


@pytest.mark.thorough
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("form", ["auto", "product"])
def test_symbols_for_shapes(form):
    """The shape checker is off, as it knows no symbols."""
    shapes = [f"b, {2**k}*h, {2**k}*w, 3" for k in (3, 2, 1, 0)]
    scope = jax.export.SymbolicScope()
    maps = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), jnp.float32) for shape in shapes]
    boxes = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, n, 4", scope=scope), jnp.float32)
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(2, 3 * 2**k, 2 * 2**k, 3)).astype(np.float32) for k in (3, 2, 1, 0)]
    run = jax.jit(functools.partial(ops.roi_align, output_size=2, strides=STRIDES, implementation=form))
    boxes_given = some_boxes(rng)[:, :5]
    found = jax.export.export(run)(maps, boxes).call(given, boxes_given)
    np.testing.assert_allclose(found, run(given, boxes_given), atol=1e-5)


@pytest.mark.few
@pytest.mark.parametrize(("kind", "form", "ratio"), [
    (AxisType.Auto, "gather", 0),
    (AxisType.Explicit, "gather", 2),
    (AxisType.Explicit, "product", 0),
    (AxisType.Auto, "product", 2),
])  # fmt: skip
def test_on_a_mesh_nothing_travels(rng, kind, form, ratio):
    """Neither for the bins nor for the gradients; each device reads until its own boxes are done."""
    maps, boxes = pyramid(rng, 4), some_boxes(rng, 4)

    def squares(maps, boxes):
        run = functools.partial(ops.roi_align, output_size=2, strides=STRIDES, sampling_ratio=ratio)
        return jax.vjp(lambda maps: run(maps, boxes, implementation=form) ** 2, maps)

    def program(maps, boxes):
        values, pull = squares(maps, boxes)
        return values, pull(values)[0]

    alone = jax.jit(program)(maps, boxes)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, AxisType.Auto), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = jax.device_put((maps, boxes), NamedSharding(mesh, PartitionSpec("data")))
        compiled = jax.jit(program).lower(*placed).compile()
        found = compiled(*placed)
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all") if word in text]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("ratio", [2, 0])
def test_memory_is_that_of_bins_and_maps(ratio):
    """All that is read at once would be 16 or 256 times the 25.7 MB of the bins, and the same for gradients."""
    maps = [jax.ShapeDtypeStruct((1, side, side, 256), jnp.float32) for side in (80, 40)]
    boxes = jax.ShapeDtypeStruct((1, 512, 4), jnp.float32)

    def slopes(maps, boxes):
        run = functools.partial(ops.roi_align, output_size=7, strides=(8, 16), sampling_ratio=ratio)
        return jax.grad(lambda maps: (run(maps, boxes) ** 2).sum())(maps)

    used = jax.jit(slopes).lower(maps, boxes).compile().memory_analysis().temp_size_in_bytes
    assert used < 6 * 512 * 49 * 256 * 4


def test_the_choice():
    """Gradients are products where maps are small for the size of the output; symbols have no size."""
    assert choose_forms("auto", [(16, 16)], (7, 7), 2, 8) == ("gather", "product")
    assert choose_forms("auto", [(32, 32)], (7, 7), 2, 8) == ("gather", "gather")
    assert choose_forms("auto", [(32, 32)], (14, 14), 2, 8) == ("gather", "product")
    assert choose_forms("auto", [(32, 32)], (7, 7), 0, 8) == ("gather", "product")
    assert choose_forms("auto", [(32, 32)], (7, 7), 0, 1) == ("gather", "gather")
    assert choose_forms("auto", [(160, 160), (80, 80)], (14, 14), 0, 8) == ("gather", "gather")
    assert choose_forms("product", [(160, 160)], (7, 7), 2, 8) == ("product", "product")


def test_pooling_of_torchvision(rng):
    """Boxes inside: without its compiled operators, torchvision clamps what is outside."""
    torch = pytest.importorskip("torch")
    torchvision_detection()
    from torchvision.ops import poolers
    from torchvision.ops.roi_align import _roi_align

    maps = [rng.normal(size=(2, side, side, 3)).astype(np.float32) for side in (128, 64, 32, 16)]
    low = rng.uniform(8, 200, (2, 20, 2))
    boxes = np.concatenate([low, np.minimum(low + 2 ** rng.uniform(0, 9, (2, 20, 2)), 500)], -1).astype(np.float32)
    tensors = {str(i): torch.from_numpy(each.transpose(0, 3, 1, 2).copy()) for i, each in enumerate(maps)}

    def by_operations(features, rois, output_size, spatial_scale, sampling_ratio, aligned=False):
        return _roi_align.__wrapped__(features, rois, spatial_scale, *output_size, sampling_ratio, aligned)

    pool = poolers.MultiScaleRoIAlign([*tensors], (7, 5), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poolers, "roi_align", by_operations)
        expected = pool(tensors, [torch.from_numpy(each) for each in boxes], [(512, 512)] * 2).numpy()
    found = roi_align(maps, boxes, output_size=(7, 5), strides=STRIDES, aligned=False)
    np.testing.assert_allclose(found.reshape(40, 7, 5, 3), expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    rois = torch.from_numpy(np.concatenate([np.repeat([0.0, 1.0], 20)[:, None], boxes.reshape(40, 4)], 1)).float()
    expected = by_operations(tensors["2"], rois, (7, 5), 1 / 16, 0, True).numpy()
    found = roi_align(maps[2], boxes, output_size=(7, 5), strides=16, sampling_ratio=0)
    np.testing.assert_allclose(found.reshape(40, 7, 5, 3), expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


MAP, BOX = np.zeros((1, 4, 5, 2), np.float32), np.zeros((1, 3, 4), np.float32)
REFUSED = {
    "output_size must be one or two whole numbers": dict(output_size=(7, 0)),
    "output_size must be one or two whole numbers of at least 1, got .2.5, 2": dict(output_size=(2.5, 2)),
    "sampling_ratio must be a whole number of at least 0, got -1": dict(sampling_ratio=-1),
    "most_samples must be a whole number of at least 1, got 0": dict(sampling_ratio=0, most_samples=0),
    "canonical_size must be above 0": dict(canonical_size=0),
    "implementation must be one of 'auto', 'gather', 'product', got 'matmul'": dict(implementation="matmul"),
    "strides must be a number above 0 for each of 1 maps": dict(strides=(4, 8)),
    "strides must be a number above 0": dict(strides=-4),
    "each of several strides must be twice the one before": dict(maps=[MAP, MAP], strides=(4, 16)),
    "maps must be equal in batch, channels and dtype, got float32": dict(maps=[MAP, MAP[..., :1]], strides=(4, 8)),
    "maps must be one or more of the shape": dict(maps=MAP[0]),
    r"maps must be one or more of the shape \[b, h, w, c\], got \[\]": dict(maps=[], strides=[]),
    r"boxes must have the shape \[1, n, 4\], got \(3, 4\)": dict(boxes=BOX[0]),
    r"boxes must have the shape \[1, n, 4\], got \(2, 3, 4\)": dict(boxes=BOX.repeat(2, 0)),
    "boxes must have the shape .*, four numbers along the last axis": dict(boxes=BOX[..., :3]),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    given = dict(maps=MAP, boxes=BOX, output_size=2, strides=4) | REFUSED[message]
    with pytest.raises(ValueError, match=message):
        ops.roi_align(**given)


@pytest.mark.usefixtures("unchecked_shapes")
def test_whole_numbers_are_no_features():
    with pytest.raises(TypeError, match="maps must be of a floating-point dtype, got int32"):
        ops.roi_align(jnp.zeros((1, 4, 5, 2), jnp.int32), BOX, output_size=2, strides=4)
