"""Tests of UPerNet and Semantic FPN around any backbone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from layers import head_oracle

from aa_flax.analysis import attention_maps, summarize
from aa_flax.layers.norm import BatchNorm
from aa_flax.models import SemanticFPN, UPerNet, create_model, list_models, model_options
from aa_flax.models.registry import options_around
from aa_flax.models.semantic_fpn import SemanticFPNOptions
from aa_flax.models.stages import FeatureInfo
from aa_flax.models.upernet import UPerNetOptions
from aa_flax.training import functional

OTHERS = dict(head_width=12, auxiliary_width=6, num_classes=5, image_size=(64, 96))
TINY = dict(width=8, blocks=(1, 1, 1, 1), **OTHERS)
FAMILIES = {"upernet_": (UPerNet, UPerNetOptions), "semantic_fpn_": (SemanticFPN, SemanticFPNOptions)}


def build(name="upernet_resnet18", **options):
    return create_model(name, **{**TINY, **options}, rngs=nnx.Rngs(0))


def shapes(name="upernet_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def modules(model):
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}


class Strided(nnx.Module):
    """A backbone without parameters: every fourth, eighth, sixteenth and thirty-second pixel."""

    image_size, in_channels = (64, 96), 3
    feature_info = {f"s{stride}": FeatureInfo(3, stride) for stride in (4, 8, 16, 32)}  # noqa: RUF012

    def features(self, images, *, train=None, rngs=None):
        return {name: images[:, :: info.stride, :: info.stride] for name, info in self.feature_info.items()}


def around_strided(prefix="upernet_", **options):
    kind, of = FAMILIES[prefix]
    return kind(of(head_width=8, auxiliary_width=6, **options), Strided(), num_classes=5, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def tiny():
    return around_strided(pooling_bins=(1, 2))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(2).normal(size=(2, 64, 96, 3)), jnp.float32)


def sizes_of(model):
    sizes = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        sizes[path[0]] = sizes.get(path[0], 0) + math.prod(leaf.shape)
    return sizes


# Without pooling and classifier, and with three transposed convolutions and a norm.
PATCHCONVNET = 25_231_096 - (10 * 384**2 + 17 * 384) - 385_000 + 3 * (4 * 384**2 + 384) + 2 * 384


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "options", "head", "auxiliary", "backbone"),
    [
        ("upernet_resnet50", {}, 40_590_486, 2_398_358, 23_508_032),
        ("upernet_resnet101", dict(auxiliary_head=False), 40_590_486, 0, 42_500_160),
        ("semantic_fpn_resnet50", {}, 3_344_384 + 1_643_158, 0, 23_508_032),
        ("upernet_patchconvnet_s60", {}, 29_187_222, 923_798, PATCHCONVNET),
    ],
)
def test_parameters(name, options, head, auxiliary, backbone):
    """Those of mmsegmentation with 150 classes; the head of four maps of 384 channels is that of XCiT-S12."""
    found = sizes_of(shapes(name, **options))
    assert found.pop("decode_head") + found.pop("classifier") == head
    assert found.pop("backbone") == backbone and found.pop("auxiliary_head", 0) == auxiliary and not found


@pytest.mark.thorough
def test_operations_of_upernet():
    """236.6 billion multiply-adds at 512×512 in evaluation; pooling and interpolation count for nothing."""
    summary = summarize("upernet_resnet50")
    assert summary.image_shape == (512, 512, 3)
    size, width = 512 // 4, 512
    of_level = {2: 256, 3: 512, 4: 1024}
    needed = sum((size >> (level - 2)) ** 2 * width * (c + 9 * width) for level, c in of_level.items())
    needed += (size // 8) ** 2 * 9 * width * (2048 + 4 * width) + sum(n * n for n in (1, 2, 3, 6)) * 2048 * width
    needed += size**2 * 9 * width * 4 * width
    assert summary.by_module["decode_head"].flops == 2 * needed
    assert summary.flops / 2e9 == pytest.approx(236.6, abs=0.05)
    assert summary.by_module["auxiliary_head"].flops == 0 and "pyramid_pooling" in summary.table(3)


def test_names_and_options():
    names = list_models(task="segmentation")
    classifiers = [name for name in list_models(task="classification") if "wide" not in name]
    served = {name for name in classifiers if not name.endswith("_multi")}
    assert {*names} == {prefix + name for prefix in FAMILIES for name in served}
    assert not {*names} & {*list_models(task="detection")}
    options = model_options("upernet_aa_resnet50")
    assert {"head_width", "pooling_bins", "auxiliary_weight", "dropout_rate", "frozen_norms", "kappa"} <= {*options}
    assert not {"pooling", "norm"} & {*options}
    assert options_around("semantic_fpn_resnet50", dropout_rate=0.2) == SemanticFPNOptions(dropout_rate=0.2)
    for prefix, (kind, _) in FAMILIES.items():
        model = shapes(f"{prefix}resnet18")
        assert type(model) is kind and model.image_size == (512, 512) and model.num_classes == 150


@pytest.mark.few(0)
@pytest.mark.parametrize("prefix", FAMILIES)
def test_outputs_in_training_and_in_evaluation(prefix):
    """Only shapes run, of sides that 4 does not divide; logits at every fourth pixel, the others at every sixteenth."""
    x = jax.ShapeDtypeStruct((2, 50, 75, 3), jnp.float32)
    trained = {"logits": (2, 13, 19, 5), "auxiliary": (2, 4, 5, 5)}
    for auxiliary in (True, False):
        model = around_strided(prefix, auxiliary_head=auxiliary)
        expected = {name: shape for name, shape in trained.items() if auxiliary or name == "logits"}
        for mode in (True, False):
            (model.train if mode else model.eval)()
            apply, params, statistics = functional(model)
            for train in (True, False, None):
                call = lambda p, s, x: apply(p, s, x, train=train, rngs=nnx.Rngs(0))[0]  # noqa: B023, E731
                found = jax.tree.map(jnp.shape, jax.eval_shape(call, params, statistics, x))
                assert found == (expected if train or (train is None and mode) else (2, 13, 19, 5))
    assert (around_strided(prefix).auxiliary_head is not None) == (prefix == "upernet_")


@pytest.fixture(scope="module")
def computed(tiny, images):
    """Return, of one program, logits, maps, classes of the pixels at two sizes, and statistics, in training mode."""
    graph, state = nnx.split(tiny)

    def all_of_it(state, x):
        model = nnx.merge(graph, state, copy=True)
        model.train()
        logits, maps = model(x, train=False), model.features(x, train=False)
        return logits, maps, model.segment(x), model.segment(x, (33, 50)), nnx.to_pure_dict(nnx.state(model))

    return jax.jit(all_of_it)(state, images)


def test_logits_are_those_of_the_parts(tiny, images, computed):
    """The head by definition, its classifier, and features with the strides that they say."""
    logits, maps, *_ = computed
    arrays = {
        ".".join(map(str, path)): np.asarray(x[...], np.float64) for path, x in nnx.to_flat_state(nnx.state(tiny))
    }
    of_head = {path.removeprefix("decode_head."): x for path, x in arrays.items()}
    given = {int(math.log2(s)): np.asarray(images, np.float64)[:, ::s, ::s] for s in (4, 8, 16, 32)}
    pyramid, fused = head_oracle.uper_head(given, of_head, (1, 2))
    expected = fused @ arrays["classifier.out.kernel"][0, 0] + arrays["classifier.out.bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.dtype == jnp.float32
    for level, x in pyramid.items():
        np.testing.assert_allclose(maps[f"p{level}"], x, rtol=1e-4, atol=1e-5)
        info = tiny.feature_info[f"p{level}"]
        assert info == (8, 2**level) and x.shape == (2, 64 // info.stride, 96 // info.stride, info.channels)


def test_segment_resizes_logits_before_it_chooses(tiny, computed):
    """And it is in evaluation, although the module is in training: no statistic has changed."""
    logits, _, whole, small, state = computed
    for found, size in ((whole, (64, 96)), (small, (33, 50))):
        assert found.shape == (2, *size) and found.dtype == jnp.int32
        resized = head_oracle.resized(np.asarray(logits, np.float64), *size)
        two = np.sort(resized, -1)[..., -2:]
        clear = two[..., 1] - two[..., 0] > 1e-5
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(np.asarray(found)[clear], resized.argmax(-1)[clear])
    assert len(np.unique(whole)) > 1
    same = jax.tree.map(lambda a, b: bool((a == b).all()), nnx.to_pure_dict(nnx.state(tiny)), state)
    assert jax.tree.all(same)


def test_segment_can_be_exported_for_batches_of_any_size(tiny):
    apply, params, statistics = functional(tiny, lambda model, x, **_: model.segment(x))
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 64, 96, 3"), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: apply(params, statistics, x)[0]), platforms=["cpu"])(shape)
    (out,) = program.out_avals
    assert out.shape[1:] == (64, 96) and out.dtype == jnp.int32


def learnt(model, images):
    """Return the gradient of a random function of the outputs, and which statistics a call in training changes."""
    apply, params, statistics = functional(model)
    rng = np.random.default_rng(0)

    def loss(params):
        outputs, stats = apply(params, statistics, images, train=True, rngs=jax.random.key(0))
        return sum((jnp.asarray(rng.normal(size=y.shape), y.dtype) * y).sum() for y in outputs.values()), stats

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
    moved = jax.tree.map(lambda before, after: bool((before != after).any()), statistics, stats)
    return {".".join(str(k.key) for k in path): g for path, g in jax.tree_util.tree_leaves_with_path(gradients)}, moved


@pytest.mark.few(1)
@pytest.mark.parametrize("prefix", FAMILIES)
def test_training_reaches_every_parameter(images, prefix):
    gradients, moved = learnt(
        around_strided(prefix, **(dict(pooling_bins=(1, 2)) if prefix == "upernet_" else {})), images
    )
    assert all(jax.tree.leaves(moved)) and "decode_head" in moved
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["upernet_aa_resnet18", "semantic_fpn_patchconvnet_s60"])
def test_training_with_a_backbone(images, name):
    own = dict(num_heads=1, upsilon=0.25) if "aa_" in name else {}
    size = dict(width=8, blocks=(1, 1, 1, 1)) if "resnet" in name else dict(width=8, depth=4, layer_scale_init=1.0)
    model = create_model(name, **size, **own, **OTHERS, rngs=nnx.Rngs(0))
    gradients, moved = learnt(model, images)
    assert all(jax.tree.leaves(moved))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path


@pytest.mark.few(0)
@pytest.mark.parametrize("prefix", FAMILIES)
@pytest.mark.usefixtures("unchecked_shapes")
def test_16_bit_networks_with_strict_dtypes(prefix):
    """No array changes its dtype by itself; logits are float32 and maps are not."""
    model = shapes(f"{prefix}resnet18", **TINY, dtype=jnp.bfloat16)
    apply, params, statistics = functional(model)
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        run = lambda p, s, x: apply(p, s, x, train=True, rngs=nnx.Rngs(dropout=0))[0]  # noqa: E731
        outputs = jax.eval_shape(run, params, statistics, x)
        whole = functional(model, lambda model, x, **_: (model(x), model.features(x), model.segment(x)))[0]
        logits, maps, classes = jax.eval_shape(lambda p, s, x: whole(p, s, x)[0], params, statistics, x)
    assert {y.dtype for y in (*outputs.values(), logits)} == {jnp.dtype("float32")} and classes.dtype == jnp.int32
    assert {y.dtype for y in maps.values()} == {jnp.dtype("bfloat16")}


@pytest.mark.thorough
def test_a_network_is_traced_on_a_mesh_whose_shardings_are_part_of_the_types():
    """Calls in training, with a backbone of stages and a plain one; the logits are split as the images are."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])

    def placed(shape, *axes):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    for name, size in (("upernet_resnet18", TINY), ("semantic_fpn_patchconvnet_s60", dict(width=8, depth=4, **OTHERS))):
        apply, params, statistics = functional(shapes(name, **size))
        with jax.set_mesh(mesh):
            variables = jax.tree.map(lambda leaf: placed(leaf.shape), (params, statistics))
            run = jax.jit(lambda p, s, x: apply(p, s, x, train=True, rngs=jax.random.key(0)))  # noqa: B023
            outputs, _ = run.trace(*variables, placed((8, 48, 80, 3), "data")).out_info
        assert outputs["logits"].shape == (8, 12, 20, 5) and outputs["logits"].sharding.spec[0] == "data"


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["upernet_resnet18", "semantic_fpn_patchconvnet_s60"])
def test_a_16_bit_networks_logits_are_nearly_those_of_32_bits(images, name):
    size = TINY if "resnet" in name else dict(width=16, depth=4, layer_scale_init=0.1, **OTHERS)
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        apply, params, statistics = functional(create_model(name, **size, dtype=dtype, rngs=nnx.Rngs(0)))
        found.append(np.asarray(jax.jit(lambda p, s, x: apply(p, s, x)[0])(params, statistics, images)))  # noqa: B023
    assert found[0].std() > 0
    np.testing.assert_allclose(found[1], found[0], atol=0.05 * np.abs(found[0]).max())  # some dozen roundings of 1/256


@pytest.mark.thorough
def test_norms_have_the_options_settings():
    """All but those of gates, which are the layers' own; the frozen ones do not learn."""
    settings = dict(batch_norm_momentum=0.5, batch_norm_epsilon=1e-3, frozen_norms=True)
    model = shapes("upernet_aw_resnet18", **TINY, **settings)
    parts = modules(model)
    norms = {path: module for path, module in parts.items() if isinstance(module, BatchNorm)}
    gates = {path for path in norms if path.startswith("backbone") and ".conv" in path}
    frozen = {path for path in norms if path.startswith("backbone")} - gates
    assert gates and frozen == {*model.frozen_parts} == {path for path, norm in norms.items() if norm.frozen}
    assert all((norm.momentum, norm.epsilon) == (0.5, 1e-3) for path, norm in norms.items() if path not in gates)
    assert all(norms[path].epsilon == 1e-5 for path in gates)
    assert summarize(model).frozen == sum(2 * norms[path].num_features for path in frozen)
    assert shapes("upernet_resnet18", **TINY).frozen_parts == ()


@pytest.mark.thorough
def test_attention_maps_of_a_segmenters_backbone():
    model = build("upernet_aa_resnet18", num_heads=1, upsilon=0.25)
    maps = attention_maps(model, jnp.zeros((1, 64, 96, 3)), queries=[(0, 0), (63, 95)], layers="backbone.stage4.*")
    ((path, weights),) = maps.items()
    assert path == "backbone.stage4.block1.conv1" and weights.shape == (1, 1, 2, 2, 3)
    np.testing.assert_allclose(weights.sum((-1, -2)), 1, rtol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(num_classes=0), ValueError, "num_classes of a segmentation network must be at least 1, got 0"),
        (dict(head_width=0), ValueError, "head_width must be at least 1, got 0"),
        (dict(auxiliary_width=0), ValueError, "auxiliary_width must be at least 1, got 0"),
        (dict(auxiliary_weight=-0.1), ValueError, "auxiliary_weight must be at least 0, got -0.1"),
        (dict(auxiliary_weight=float("nan")), ValueError, "auxiliary_weight must be finite, got nan"),
        (dict(dropout_rate=1.0), ValueError, r"dropout_rate must lie in \[0, 1\), got 1"),
        (dict(batch_norm_epsilon=0.0), ValueError, "batch_norm_epsilon must be above 0, got 0"),
        (dict(batch_norm_momentum=1.5), ValueError, r"batch_norm_momentum must lie in \[0, 1\], got 1.5"),
        (dict(pooling_bins=(0,)), ValueError, "pooling_bins must be different whole numbers of at least 1"),
        (dict(pooling_bins=6), TypeError, "pooling_bins must be a tuple, got 6"),
        (dict(flavor="tpu"), ValueError, "flavor must be one of 'mmsegmentation', got 'tpu'"),
        (dict(pooling="attention"), TypeError, "has no option 'pooling'"),
    ],
)
def test_options_that_cannot_be(options, kind, message):
    with pytest.raises(kind, match=message):
        build(**options)


@pytest.mark.usefixtures("unchecked_shapes")
def test_calls_that_cannot_be(tiny):
    with pytest.raises(ValueError, match=r"images must have shape \[b, h, w, in_channels=3\]"):
        tiny(jnp.zeros((1, 64, 96, 4)))
    with pytest.raises(ValueError, match="train=True with dropout needs rngs"):
        tiny(jnp.zeros((1, 64, 96, 3)), train=True)
    with pytest.raises(
        ValueError, match="'upernet_wide_resnet28_10': it needs maps at strides 4, 8, 16, 32, and those"
    ):
        build("upernet_wide_resnet28_10")


KINDS = [
    prefix + name
    for prefix, names in (
        ("upernet_", ("aa_mnasnet_100", "bam_resnet18", "aw_aa_resnet50", "fully_attentional_resnet50", "se_resnet50")),
        ("semantic_fpn_", ("aw_mnasnet_100", "patchconvnet_s60", "gala_resnet50")),
    )
    for name in names
]


@pytest.mark.few(0, thorough=4)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_backbone(name):
    """Only shapes run, in training: every parameter is read, so that none is left of the backbone's classifier."""
    size = dict(width=16, blocks=(1, 1, 1, 1)) if "resnet" in name else dict(width=0.25)
    size = dict(width=8, depth=4) if "patch" in name else size
    attention = dict(num_heads=1, upsilon=0.25) if "aa_" in name or "fully" in name else {}
    apply, params, statistics = functional(shapes(name, **{**OTHERS, **size, **attention}))
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    run = lambda p, s, x: apply(p, s, x, train=True, rngs=nnx.Rngs(dropout=0))  # noqa: E731
    jaxpr, (outputs, stats) = jax.make_jaxpr(run, return_shape=True)(params, statistics, x)
    assert outputs["logits"].shape == (2, 16, 24, 5) and jax.tree.structure(stats) == jax.tree.structure(statistics)
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    assert all(id(v) in read for v in jaxpr.jaxpr.invars)
