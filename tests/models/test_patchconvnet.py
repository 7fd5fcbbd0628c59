import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.layers.norm import BatchNorm, set_groups
from aa_flax.models import create_model
from aa_flax.models.patchconvnet import PatchConvBlock
from aa_flax.models.stacked import Trunk, lies_stacked
from aa_flax.ops.platform import traced_for
from aa_flax.training import functional
from aa_flax.training.freezing import freeze_statistics

# Parameters, and billions of multiply-adds at 224, 384 and 512 pixels: from the shapes of the authors' code.
# Their README prints 25.2 M and 4.0, 11.8, 20.9 for S60; 47.7 M and 7.5; 99.4 M and 15.8, 46.5; 188.6 M and 29.9, 87.7;
# 25.6 M and 5.3 for one token per class; it does not list the large networks.
TABLE = {
    "s60": (25_231_096, (3.98, 11.68, 20.76)),
    "s120": (47_723_896, (7.49, 22.0, 39.1)),
    "b60": (99_388_936, (15.80, 46.39, 82.5)),
    "b120": (188_611_336, (29.77, 87.42, 155.4)),
    "l60": (176_009_576, (28.04, 82.3, 146.3)),
    "l120": (334_294_376, (52.85, 155.2, 275.8)),
    "s60_multi": (25_614_712, (5.31, 13.303, 22.728)),
}
SIZE = (32, 48)
# Compilation takes nearly all the time of these tests; without the last optimisations it is twice as fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.few
@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_multiply_adds(name):
    params, multiply_adds = TABLE[name]
    model = nnx.eval_shape(lambda: create_model(f"patchconvnet_{name}", rngs=nnx.Rngs(0)))
    for side, expected in zip((224, 384, 512), multiply_adds, strict=True):
        summary = summarize(model, image_size=side)
        assert summary.params == params
        assert summary.flops / 2e9 == pytest.approx(expected, rel=0.002)
        assert summary.by_module["trunk.blocks"].flops == summary.by_module["trunk"].flops > 0.6 * summary.flops
        blocks = {path: m for path, m in summary.by_module.items() if path.startswith("trunk.blocks.")}
        assert {path.count(".") for path in blocks} == {2, 3} and blocks["trunk.blocks.depthwise"].flops > 0
        assert sum(m.flops for path, m in blocks.items() if path.count(".") == 2) == summary.by_module["trunk"].flops


def build(name="patchconvnet_s60", **options):
    options = {"width": 16, "depth": 3, "num_classes": 5, "image_size": SIZE, "layer_scale_init": 0.3, **options}
    return create_model(name, **options, rngs=nnx.Rngs(0))


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(4, *SIZE, 3)), jnp.float32)


# The loop against the same blocks called one after another


def in_a_row(trunk, x, *, train, rngs):
    """Return the maps after each block, called one after another, and their batch statistics, stacked."""
    keys = [None] * trunk.depth
    if train and any(trunk.drop_path_rates):
        keys = jax.random.split(rngs.dropout(), trunk.depth)
    maps, statistics = [], []
    for i, rate in enumerate(trunk.drop_path_rates):
        block = trunk.block(i)
        x = block(x, train=train, key=keys[i], rate=rate)
        maps.append(x)
        statistics.append(nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)))
    return maps, jax.tree.map(lambda *leaves: jnp.stack(leaves), *statistics)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("norm", "rate", "rematerialize", "unroll"), [("layer", 0.4, True, 1), ("batch", 0.0, False, 2)]
)
def test_the_loop_is_the_blocks_in_a_row(rng, norm, rate, rematerialize, unroll):
    """Values, gradients and statistics agree with and without rematerialisation; sums have another order."""
    options = dict(norm=norm, drop_path_rate=rate, drop_path_rule="linear", width=8, depth=2)
    trunk = build(**options, rematerialize=rematerialize, unroll=unroll).trunk
    graph, state = nnx.split(trunk)
    x = jnp.asarray(rng.normal(size=(5, 2, 3, 8)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def looped(trunk, x, rngs):
        y, kept = trunk(x, train=True, rngs=rngs, keep=(1, 0))
        return y, kept, nnx.to_pure_dict(nnx.state(trunk.blocks, nnx.BatchStat))

    def unrolled(trunk, x, rngs):
        maps, statistics = in_a_row(trunk, x, train=True, rngs=rngs)
        return maps[-1], {0: maps[0], 1: maps[1]}, statistics

    def results(run):
        def loss(state, x):
            found = run(nnx.merge(graph, state, copy=True), x, nnx.Rngs(jax.random.key(3)))
            return (found[0] * weights).sum() + found[1][0].sum(), found

        return jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(nnx.to_pure_dict(state), x)

    found, expected = results(looped), results(unrolled)
    assert jnp.abs(expected[0][1][0] - x).max() > 0.1
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(expected)]
    for path, one, other in zip(paths, jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 * np.abs(other).max(), err_msg=path)


def test_every_block_drops_by_a_key_of_its_own(rng):
    """The survivors of 64 examples at rate 1/2 are binomial in each block and differ between blocks."""
    trunk = build(width=8, depth=4, drop_path_rate=0.5).trunk
    trunk.blocks.gamma[...] = jnp.ones_like(trunk.blocks.gamma[...])
    x = jnp.asarray(rng.normal(size=(64, 1, 1, 8)), jnp.float32)
    y, kept = trunk(x, train=True, rngs=nnx.Rngs(1), keep=range(4))
    np.testing.assert_array_equal(y, kept[3])
    maps = [x, *(kept[i] for i in range(4))]
    survived = np.array([np.asarray(jnp.any(b != a, (1, 2, 3))) for a, b in itertools.pairwise(maps)])
    assert ((survived.sum(1) > 16) & (survived.sum(1) < 48)).all()
    for i in range(4):
        for j in range(i):
            assert 16 < (survived[i] != survived[j]).sum() < 48
    assert trunk.drop_path_rates == (0.5,) * 4  # constant, as in the authors' code
    assert build(drop_path_rate=0.3, drop_path_rule="linear").trunk.drop_path_rates == pytest.approx((0.1, 0.2, 0.3))


def test_a_program_holds_one_block_whatever_the_depth():
    def equations(depth):
        model = nnx.eval_shape(lambda: build(depth=depth))
        graph, state = nnx.split(model)
        images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
        with traced_for("tpu"):  # on a CPU the depthwise convolution is a sum
            program = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s, copy=True)(x))(state, images)
        return str(program).count("conv_general")

    assert equations(2) == equations(37) == 5  # four of the stem, one of the block


# The rest of the network


def test_features_of_blocks(images):
    model = build()
    first = model.trunk.block(0)

    @jit
    def compute(x):
        return model.block_features(x, blocks=(2, 0)), first(model.stem(x)), model.features(x)["stage1"]

    found, expected, last = compute(images)
    assert [*found] == [0, 2] and found[0].shape == (4, 2, 3, 16)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[2], last)
    assert model.feature_info == {"stage1": (16, 16)}
    for blocks in ((0, 3), (-1,), (1, 1)):
        with pytest.raises(ValueError, match="blocks must be different numbers from 0 to 2, counted from the input"):
            model.block_features(images, blocks=blocks)
    with pytest.raises(ValueError, match=r"from 0 to 2, counted from the input; got \[3\]"):
        model.trunk.block(3)


@pytest.mark.thorough
@pytest.mark.parametrize("options", [dict(name="patchconvnet_s60_multi"), dict(norm="batch", drop_path_rate=0.2)])
def test_every_parameter_learns(images, options):
    """Every parameter of each block has a gradient; that of the key bias, which softmax ignores, is only rounding."""
    apply, params, statistics = functional(build(**options))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
    params["trunk"]["blocks"]["squeeze_excite"]["squeeze"]["bias"] += 1  # no block has all its units at zero

    @jit
    def gradient(params):
        loss = lambda p: apply(p, statistics, images, train=True, rngs=jax.random.key(0))[0]  # noqa: E731
        return jax.grad(lambda p: (loss(p) * jnp.arange(20.0).reshape(4, 5)).sum())(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        assert np.isfinite(leaf).all(), name
        blocks = leaf.reshape(3, -1) if lies_stacked(name) else leaf.reshape(1, -1)
        largest = np.abs(blocks).max(1)
        assert (largest < 1e-4).all() if name == "pooling.key.bias" else (largest > 1e-4).all(), (name, largest)


def test_batch_statistics(rng):
    """Statistics are those of the whole batch, or of its parts with groups, and do not change if frozen."""
    model = build(norm="batch", width=8)
    trunk = model.trunk
    assert isinstance(trunk.block(1).norm, BatchNorm) and trunk.blocks.norm.mean.shape == (3, 8)
    x = jnp.asarray(rng.normal(1, 2, size=(4, 2, 3, 8)), jnp.float32)

    def run(train=True):
        """Return the last map and the batch statistics after the call."""
        graph, state = nnx.split(trunk)

        def call(state):
            merged = nnx.merge(graph, state, copy=True)
            return merged(x, train=train, rngs=None)[0], nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

        y, after = jit(call)(state)
        return y, after["blocks"]["norm"]

    whole, after = run()
    np.testing.assert_allclose(after["mean"][0], 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["var"][0], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    assert np.unique(after["mean"][:, 0]).size == 3

    set_groups(model, 2)
    by_parts, after = run()
    variance = x.reshape(2, -1, 8).var(1).mean(0)  # within the parts
    np.testing.assert_allclose(after["var"][0], 0.9 + 0.1 * variance, rtol=1e-4)
    assert jnp.abs(whole - by_parts).max() > 1e-3

    freeze_statistics(model, ["trunk"])
    frozen, kept = run()
    np.testing.assert_allclose(frozen, run(train=False)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(kept["mean"], 0)


def test_statistics_are_updated_in_place(images):
    trunk = build(norm="batch", width=8, depth=2).trunk
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(trunk, nnx.BatchStat))]
    trunk(jnp.ones((2, 1, 1, 8)), train=False, rngs=None)
    same = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(trunk, nnx.BatchStat))]
    trunk(jnp.ones((2, 1, 1, 8)), train=True, rngs=None)
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(trunk, nnx.BatchStat))]
    for old, unchanged, new in zip(before, same, after, strict=True):
        np.testing.assert_array_equal(old, unchanged)
        assert np.abs(new - old).max() > 0.01 and new.shape == old.shape


def test_bfloat16(images):
    """The tolerance is that of eight bits of mantissa in three blocks; the loop would refuse a float32 carry."""
    full, half = (build(dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    logits, expected = jit(half)(images), jit(full)(images)
    assert logits.dtype == jnp.bfloat16 and half.trunk.blocks.gamma.dtype == jnp.float32
    np.testing.assert_allclose(logits.astype(jnp.float32), expected, atol=0.05 * np.abs(expected).max())


def test_float64():
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: build(dtype=jnp.float64, param_dtype=jnp.float64, drop_path_rate=0.1))
        apply, params, statistics = functional(model)
        x, key = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float64), jax.random.key(0)
        out, _ = jax.eval_shape(lambda p, s, x: apply(p, s, x, train=True, rngs=key), params, statistics, x)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, out))} == {jnp.dtype(jnp.float64)}


def test_initial_weights():
    """Blocks have PyTorch's defaults, pooling and head a deviation of 0.02; every block has its own draws."""
    model = build(depth=5, width=32, layer_scale_init=1e-4, num_classes=200)
    blocks = model.trunk.blocks
    for leaf, fan_in in (
        (model.stem.conv2.kernel, 9 * 4),
        (blocks.pointwise1.kernel, 32),
        (blocks.pointwise2.bias, 32),
        (blocks.depthwise.kernel, 9),
        (blocks.depthwise.bias, 9),
        (blocks.squeeze_excite.squeeze.bias, 32),
        (blocks.squeeze_excite.excite.kernel, 8),
        (blocks.squeeze_excite.excite.bias, 8),
    ):
        values, bound = np.asarray(leaf[...], np.float64), 1 / math.sqrt(fan_in)
        assert 0.8 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.25)
    for leaf in (model.head.kernel, model.pooling.query.kernel, model.pooling.mlp2.kernel):
        assert float(leaf[...].std()) == pytest.approx(0.02, rel=0.15)
    for leaf in (blocks.gamma, model.pooling.gamma1, model.pooling.gamma2):
        np.testing.assert_array_equal(leaf[...], np.float32(1e-4))
    assert not np.any(model.head.bias[...]) and not np.any(model.pooling.value.bias[...])
    kernels = np.asarray(blocks.pointwise1.kernel[...]).reshape(5, -1)
    assert np.unique(kernels).size == kernels.size


def test_initial_weights_drawn_in_a_trace():
    """In a trace the distribution is the same, and every block has its own draws."""

    def draw():
        options = dict(norm="layer", layer_scale_init=0.1, dtype=jnp.float32, param_dtype=jnp.float32)
        make = lambda rngs: PatchConvBlock(8, **options, rngs=rngs)  # noqa: E731
        trunk = Trunk(make, drop_path_rates=(0.0,) * 5, rematerialize=True, rngs=nnx.Rngs(0))
        return trunk.blocks.pointwise1.kernel[...], trunk.blocks.depthwise.bias[...]

    kernel, bias = jit(draw)()
    assert np.unique(kernel).size == 5 * 64 and np.unique(bias).size == 5 * 8
    assert 0.9 / math.sqrt(8) < np.abs(kernel).max() <= 1 / math.sqrt(8) and 0.25 < np.abs(bias).max() <= 1 / 3


def test_layer_scales_are_the_authors():
    for name, expected in (("s60", 1e-4), ("s60_multi", 1e-4), ("s120", 1e-6), ("b60", 1e-6), ("l120", 1e-6)):
        model = create_model(f"patchconvnet_{name}", width=8, depth=2, num_classes=3, image_size=16, rngs=nnx.Rngs(0))
        for leaf in (model.trunk.blocks.gamma, model.pooling.gamma1, model.pooling.gamma2):
            np.testing.assert_array_equal(leaf[...], np.float32(expected))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width=12), "width must be a multiple of 8, got 12"),
        (dict(unroll=4), r"unroll must lie in \[1, 3\], the number of blocks, got 4"),
        (dict(depth=0), "depth must be at least 1, got 0"),
        (dict(norm="group"), r"norm must be one of 'layer', 'batch', got 'group'"),
        (dict(image_size=(224, 200)), "image_size must have .* 16 divides, got 224×200; 224×192 would do"),
        (dict(drop_path_rate=1.0), r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        (dict(pooling="average", pooling_width=8), "pooling_width goes with pooling='attention'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_images_that_do_not_fit(images):
    model = build(drop_path_rate=0.1)
    with pytest.raises(ValueError, match="images must have .* 16 divides, got 32×47; 32×48 would do"):
        model(images[:, :, :47])
    with pytest.raises(ValueError, match="got 8×48; 16×48 would do"):
        model.features(images[:, :8])
    with pytest.raises(ValueError, match="train=True with drop path needs rngs"):
        model(images, train=True)
