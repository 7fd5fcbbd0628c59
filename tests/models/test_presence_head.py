"""Tests of the presence head of segmentation networks: attention pooling that says which classes occur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import attention_maps, summarize
from aa_flax.models import create_model
from aa_flax.training import functional
from aa_flax.weights import init_from_plain
from aa_flax.weights.arrays import flat_arrays

OTHERS = dict(head_width=8, auxiliary_width=6, num_classes=5, image_size=(64, 96))
PLAIN = dict(width=8, depth=4, layer_scale_init=0.5, **OTHERS)


def build(name="upernet_patchconvnet_s60", **options):
    return create_model(name, **{**PLAIN, "presence_head": True, **options}, rngs=nnx.Rngs(0))


def shapes(name, **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


def sizes_of(model):
    sizes = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        sizes[path[0]] = sizes.get(path[0], 0) + leaf.size
    return sizes


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("upernet_patchconvnet_s60", None, 384),
        ("semantic_fpn_patchconvnet_s60", 64, 384),
        ("upernet_resnet18", 64, 256),
    ],
)
def test_parameters(name, width, channels):
    """A block of attention pooling of 10 d² + 16 d, 150 tokens and their logits; nothing else changes."""
    with_it = sizes_of(shapes(name, presence_head=True, presence_width=width))
    d = width or channels
    reduce = (channels + 1) * d if width else 0
    assert with_it.pop("pooling") == 10 * d * d + 16 * d + 150 * d + reduce
    assert with_it.pop("presence_head") == 150 * d + 150
    assert with_it == sizes_of(shapes(name))


@pytest.mark.thorough
def test_it_is_of_the_map_of_stride_16_and_training_alone_runs_it(model):
    """The other outputs are those of the network without it."""
    images = jnp.asarray(np.random.default_rng(2).normal(size=(2, 64, 96, 3)), jnp.float32)
    apply, params, statistics = functional(model, lambda model, x, **_: (model.outputs(x, train=False), model(x)))
    whole = jax.jit(lambda p, x: apply(p, statistics, x)[0])
    (found, logits), trained = whole(params, images), functional(model)[0]
    assert {name: x.shape for name, x in found.items()} == {
        "logits": (2, 16, 24, 5),
        "auxiliary": (2, 4, 6, 5),
        "presence": (2, 5),
    }
    np.testing.assert_array_equal(found["logits"], logits)
    of_map = model.backbone.block_features(images, blocks=(2,))[2]
    expected = model.presence_head(model.pooling(of_map))
    np.testing.assert_allclose(found["presence"], expected, rtol=1e-4, atol=1e-5)
    run = lambda train: jax.eval_shape(  # noqa: E731
        lambda p, x: trained(p, statistics, x, train=train, rngs=nnx.Rngs(0))[0], params, images
    )
    assert {*run(True)} == {*found} and run(True)["presence"].dtype == jnp.float32
    assert run(False).shape == (2, 16, 24, 5)
    maps = attention_maps(model, images)
    assert [*maps] == ["pooling"] and maps["pooling"].shape == (2, 1, 5, 4, 6)
    np.testing.assert_allclose(maps["pooling"], model.pooling.attention_weights(of_map), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(maps["pooling"].sum((-1, -2)), 1, rtol=1e-5)
    without = create_model("upernet_patchconvnet_s60", **PLAIN, rngs=nnx.Rngs(0))
    assert without.pooling is None and without.presence_head is None and attention_maps(without, images) == {}


def test_summaries_count_its_parameters_and_no_operations():
    """The operations are those of evaluation, as for the auxiliary head."""
    one, other = (summarize(shapes("semantic_fpn_patchconvnet_s60", **PLAIN, presence_head=it)) for it in (True, False))
    assert one.flops == other.flops and one.by_module["pooling"].params > 0 == one.by_module["pooling"].flops


@pytest.mark.thorough
def test_its_loss_reaches_the_backbone_and_its_own_parts():
    """All its parameters but the bias of the keys, which softmax does not see, and the backbone's stem and trunk."""
    model = build(pooling_bins=(1, 2), norm="layer")
    apply, params, statistics = functional(model)
    images = jnp.asarray(np.random.default_rng(2).normal(size=(2, 64, 96, 3)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradients(params):
        presence = apply(params, statistics, images, train=True, rngs=jax.random.key(0))[0]["presence"]
        return (presence * jnp.arange(1.0, 11).reshape(2, 5)).sum()

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(params)):
        names = [part.key for part in path]
        own = names[0] in ("pooling", "presence_head") and names[-2:] != ["key", "bias"]
        learns = own or names[:2] in (["backbone", "stem"], ["backbone", "trunk"])
        size = np.abs(np.asarray(gradient)).max()
        assert np.isfinite(size) and (size > 1e-9) == learns, names


@pytest.mark.few(0)
@pytest.mark.usefixtures("unchecked_shapes")
def test_16_bit_networks_with_strict_dtypes():
    model = shapes("upernet_patchconvnet_s60", **PLAIN, presence_head=True, dtype=jnp.bfloat16)
    apply, params, statistics = functional(model)
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        run = lambda p, s, x: apply(p, s, x, train=True, rngs=nnx.Rngs(dropout=0))[0]  # noqa: E731
        assert jax.eval_shape(run, params, statistics, x)["presence"].dtype == jnp.float32


def test_weights_of_other_networks(model):
    """A segmenter's for other classes fill all but tokens and logits; one without the head leaves it new."""
    given = {path: np.asarray(x) for path, x in flat_arrays(model).items()}
    other = build(num_classes=7)
    report = init_from_plain(other, given, source="aa_flax")
    classes = {f"{head}.{leaf}" for head in ("classifier.out", "presence_head") for leaf in ("kernel", "bias")}
    classes |= {f"auxiliary_head.classifier.out.{leaf}" for leaf in ("kernel", "bias")} | {"pooling.tokens"}
    assert {*report.new} == classes and {*report.loaded} == {*given} - classes
    np.testing.assert_array_equal(other.pooling.query.kernel[...], given["pooling.query.kernel"])
    without = {path: x for path, x in given.items() if not path.startswith(("pooling.", "presence_head."))}
    report = init_from_plain(build(), without, source="aa_flax")
    assert {*report.new} == {*given} - {*without} and {*report.loaded} == {*without}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(presence_weight=0.0), "presence_weight must be above 0, got 0"),
        (dict(presence_head=False, presence_width=8), "presence_width=8 goes with presence_head=True"),
        (dict(presence_width=0), "width must be a whole number of at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
