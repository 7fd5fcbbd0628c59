"""Tests of pooling and classifier: the mean, attention with one token or one for each class, or a factory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import attention_maps
from aa_flax.layers import AttentionPooling
from aa_flax.models import create_model
from aa_flax.models.heads import ClassHead
from aa_flax.training import functional
from aa_flax.weights import load, save
from aa_flax.weights.arrays import fill_arrays, flat_arrays

AUGMENTED = dict(num_heads=2, upsilon=0.25)
BACKBONES = {  # options of small networks, and their last channels
    "resnet18": (dict(blocks=(1, 1, 1, 1)), 512),
    "aa_resnet18": (dict(blocks=(1, 1, 1, 1), **AUGMENTED), 512),
    "wide_resnet28_10": (dict(depth=10, widen_factor=1), 64),
    "aa_wide_resnet28_10": (dict(depth=10, widen_factor=1, **AUGMENTED), 64),
    "mnasnet_100": (dict(width=0.25), 1280),
}
QUICK = {"xla_backend_optimization_level": 0}


def small(name, tokens="single", num_classes=5, **options):
    return create_model(
        name,
        num_classes=num_classes,
        image_size=(33, 50),
        pooling="attention",
        pooling_tokens=tokens,
        rngs=nnx.Rngs(0),
        **BACKBONES[name][0],
        **options,
    )


def size(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.few
@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("resnet18", "single"),
        ("aa_resnet18", "class"),
        ("wide_resnet28_10", "class"),
        ("aa_wide_resnet28_10", "single"),
        ("mnasnet_100", "class"),
    ],
)
def test_every_family_takes_it(name, tokens):
    """Only shapes run: of the logits and of a training step; and pooling adds exactly its parameters."""
    options, width = BACKBONES[name]
    model = nnx.eval_shape(lambda: small(name, tokens))
    plain = nnx.eval_shape(lambda: create_model(name, num_classes=5, image_size=(33, 50), rngs=nnx.Rngs(0), **options))
    apply, params, batch_stats = functional(model)
    images = jax.ShapeDtypeStruct((3, 33, 50, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda p, s, x: apply(p, s, x, train=True), params, batch_stats, images)
    assert logits.shape == (3, 5)
    count = 5 if tokens == "class" else 1
    aggregation = 10 * width**2 + 14 * width
    assert size(model) - size(plain) == aggregation + count * width + 2 * width
    assert isinstance(model.head, ClassHead if tokens == "class" else nnx.Linear)
    assert size(model.head) == 5 * (width + 1)
    assert plain.pooling is None and model.feature_info == plain.feature_info


@pytest.mark.few
@pytest.mark.parametrize("tokens", ["single", "class"])
def test_logits_are_the_head_of_the_tokens_of_the_last_map(rng, tokens):
    model = small("wide_resnet28_10", tokens, pooling_width=12, pooling_mlp_ratio=2.0, pooling_layer_scale=0.5)
    arrays = {path: rng.normal(size=leaf.shape) for path, leaf in flat_arrays(model).items() if "head" in path}
    fill_arrays(model, arrays)
    x = jnp.asarray(rng.normal(size=(2, 33, 50, 3)), jnp.float32)
    graph, state = nnx.split(model)

    def both(state, x):
        merged = nnx.merge(graph, state)
        last = merged.features(x)["stage3"]
        return merged(x), merged.pooling(last), merged.pooling.attention_weights(last)

    logits, z, weights = jax.jit(both, compiler_options=QUICK)(state, x)
    z, kernel, bias = np.asarray(z, np.float64), arrays["head.kernel"], arrays["head.bias"]
    expected = z[:, 0] @ kernel + bias
    if tokens == "class":  # logit k is of token k
        expected = np.stack([z[:, k] @ kernel[:, k] + bias[k] for k in range(5)], 1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    maps = attention_maps(model, x)
    assert list(maps) == ["pooling"] and maps["pooling"].shape == (2, 1, z.shape[1], 9, 13)
    np.testing.assert_allclose(maps["pooling"], weights, rtol=1e-4, atol=1e-6)
    assert model.pooling.width == 12 and model.pooling.mlp1.kernel.shape == (12, 24)
    np.testing.assert_array_equal(model.pooling.gamma1[...], np.full(12, 0.5, np.float32))


@pytest.mark.thorough
def test_both_kinds_of_attention_in_one_network(rng):
    """An augmented layer has one map for each query, pooling one for each token; `queries` affects the former only."""
    model = small("aa_wide_resnet28_10", "class")
    x = jnp.asarray(rng.normal(size=(1, 33, 50, 3)), jnp.float32)
    maps = attention_maps(model, x, queries=[(0, 0), (32, 49)], layers=["stage3.*", "pooling"])
    assert {path: m.shape for path, m in maps.items()} == {
        "stage3.block1.conv1": (1, 2, 2, 9, 13),
        "pooling": (1, 1, 5, 9, 13),
    }
    np.testing.assert_allclose(maps["pooling"].sum((-2, -1)), 1, rtol=1e-5)


def test_weights_survive_the_file(rng, tmp_path):
    model = small("wide_resnet28_10", "class", pooling_width=12)
    fill_arrays(model, {path: rng.normal(size=leaf.shape) for path, leaf in flat_arrays(model).items()})
    save(model, tmp_path / "w.safetensors")
    again, card = load(tmp_path / "w.safetensors")
    assert card["num_classes"] == 5 and card["options"]["pooling_tokens"] == "class"
    before, after = flat_arrays(model), flat_arrays(again)
    assert {"pooling.tokens", "pooling.gamma1", "pooling.reduce.kernel", "head.kernel"} <= set(after)
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)


def test_a_factory_of_ones_own(rng):
    """The pooling is the user's own module, the maximum over the map, which no registry names."""

    class Maximum(nnx.Module):
        def __call__(self, x):
            return x.max((1, 2))[:, None]

    def maximum(features, num_classes, *, dtype, param_dtype, rngs):
        assert (features, num_classes) == (64, 5)
        return Maximum()

    options = dict(num_classes=5, depth=10, widen_factor=1, rngs=nnx.Rngs(0))
    model = create_model("wide_resnet28_10", pooling=maximum, **options)
    x = jnp.asarray(rng.normal(size=(2, 9, 13, 3)), jnp.float32)
    kernel, bias = (np.asarray(leaf[...]) for leaf in (model.head.kernel, model.head.bias))
    expected = np.asarray(model.features(x)["stage3"]).max((1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    mean = create_model("wide_resnet28_10", pooling="average", **options)
    assert flat_arrays(mean).keys() == flat_arrays(model).keys()


@pytest.mark.few(10)
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(pooling_width=8), "pooling_width goes with pooling='attention', and pooling is 'average'"),
        (
            dict(pooling="average", pooling_tokens="class", pooling_mlp_ratio=2.0),
            "pooling_tokens, pooling_mlp_ratio goes with pooling='attention', and pooling is 'average'",
        ),
        (dict(pooling="max"), r"pooling must be 'average', 'attention' or a callable \(PoolingFactory\), got 'max'"),
        (
            dict(pooling="attention", pooling_tokens="many"),
            "pooling_tokens must be one of 'single', 'class', got 'many'",
        ),
        (dict(pooling="attention", pooling_width=0), "width must be a whole number of at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet28_10", "mnasnet_100"])
def test_errors(name, options, words):
    with pytest.raises(ValueError, match=words):
        nnx.eval_shape(lambda: create_model(name, **BACKBONES[name][0], **options, rngs=nnx.Rngs(0)))


def test_one_class_has_one_token_which_sees_itself(rng):
    model = small("wide_resnet28_10", "class", num_classes=1)
    assert isinstance(model.pooling, AttentionPooling) and model.pooling.tokens.shape == (1, 64)
    assert isinstance(model.head, nnx.Linear)
