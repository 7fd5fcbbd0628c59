import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.weights import WeightsError, init_from_plain
from aa_flax.weights.arrays import flat_arrays

ATTENTION = ("qkv.kernel", "out.kernel", "rel_height", "rel_width")


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


@pytest.mark.few
@pytest.mark.parametrize(
    ("plain", "name", "options", "augmented_convs"),
    [
        (
            "resnet50",
            "aa_resnet50",
            dict(blocks=(1, 2, 1, 1), num_classes=7, num_heads=2),
            [f"stage{s}.block{b}.conv2" for s, b in [(2, 1), (2, 2)]],
        ),
        ("mnasnet_100", "aa_mnasnet_100", dict(width=0.25, num_classes=7), ["stage3.block2.expand"]),
    ],
)
@pytest.mark.parametrize("zero_output", [False, True])
def test_an_augmented_network_from_a_plain_one(
    build, random_state_dict, plain, name, options, augmented_convs, zero_output
):
    state = random_state_dict(build(plain))
    model = build(name, **options)
    fresh = arrays(model)
    report = init_from_plain(model, state, source="timm", zero_output=zero_output)
    after, theirs = arrays(model), build(plain)
    init_from_plain(theirs, state, source="timm")
    whole = arrays(theirs)
    for conv in augmented_convs:
        kept = after[f"{conv}.conv.kernel"].shape[-1]
        total = kept + after[f"{conv}.out.kernel"].shape[-1]
        assert 0 < kept < total
        np.testing.assert_array_equal(after[f"{conv}.conv.kernel"], whole[f"{conv}.kernel"][..., :kept])
        assert report.partial[f"{conv}.conv.kernel"] == (kept, total)
        norm = conv.replace("conv", "bn") if "conv" in conv else f"{conv}_bn"
        for leaf in ("scale", "bias", "mean", "var"):
            np.testing.assert_array_equal(after[f"{norm}.{leaf}"][:kept], whole[f"{norm}.{leaf}"][:kept])
            np.testing.assert_array_equal(after[f"{norm}.{leaf}"][kept:], fresh[f"{norm}.{leaf}"][kept:])
            assert report.partial[f"{norm}.{leaf}"] == (kept, total)
        for part in ATTENTION:
            expected = np.zeros_like if zero_output and part == "out.kernel" else np.asarray
            np.testing.assert_array_equal(after[f"{conv}.{part}"], expected(fresh[f"{conv}.{part}"]))
            assert f"{conv}.{part}" in report.new
    # The next layer keeps its rows, and so does everything else that the plain network has.
    for path in report.loaded:
        # An augmented layer that is too narrow to attend is a plain convolution under another path.
        np.testing.assert_array_equal(after[path], whole[path.replace(".conv.kernel", ".kernel")])
    assert not report.unused
    assert sorted([*report.loaded, *report.partial, *report.new]) == sorted(after)
    assert all(path.endswith(ATTENTION) for path in report.new)
    assert f"{len(report.new)} new" in str(report) and f"{conv}.conv.kernel: {kept} of {total}" in str(report)


@pytest.mark.thorough
def test_without_attention_the_logits_are_those_of_the_plain_network(rng, build, random_state_dict):
    """With upsilon = 0 every augmented convolution is a plain one, so all weights must be taken over."""
    plain = build("resnet18")
    state = random_state_dict(plain)
    model = build("aa_resnet18", blocks=(2, 1, 1, 1), num_classes=7, upsilon=0.0)
    for network in (plain, model):
        report = init_from_plain(network, state, source="timm")
        assert not report.new and not report.partial and not report.unused
    x = jnp.asarray(rng.normal(size=(2, 32, 48, 3)), jnp.float32)
    np.testing.assert_array_equal(model(x), plain(x))


def test_weights_of_this_library_serve_too(build):
    """In Wide-ResNet bn2 follows the augmented conv1, because batch norm comes before the convolutions."""
    options = dict(depth=10, widen_factor=1, num_classes=7, image_size=(8, 8))
    plain = build("wide_resnet28_10", **options)
    state = arrays(plain)
    rng = np.random.default_rng(1)
    state = {path: rng.uniform(0.5, 1.5, value.shape).astype(np.float32) for path, value in state.items()}
    model = build("aa_wide_resnet28_10", **options, num_heads=2, min_key_depth_per_head=4, kappa=0.5, upsilon=0.5)
    report = init_from_plain(model, state, source="aa_flax")
    after = arrays(model)
    np.testing.assert_array_equal(
        after["stage1.block1.conv1.conv.kernel"], state["stage1.block1.conv1.kernel"][..., :8]
    )
    np.testing.assert_array_equal(after["stage1.block1.bn2.mean"][:8], state["stage1.block1.bn2.mean"][:8])
    np.testing.assert_array_equal(after["stage1.block1.bn2.mean"][8:], 0)
    assert "stage1.block1.bn1.scale" in report.loaded and "stage1.block1.bn2.scale" in report.partial


def test_fully_attentional_takes_no_filters(build, random_state_dict):
    state = random_state_dict(build("resnet50"))
    model = build("fully_attentional_resnet50", blocks=(1, 2, 1, 1), num_classes=7, num_heads=2)
    report = init_from_plain(model, state, source="timm")
    assert "stage2.block1.bn2.scale" in report.new and "layer2.0.conv2.weight" in report.unused
    assert "stage1.block1.conv2.kernel" in report.loaded


def test_another_number_of_classes_and_recalibration_start_fresh(build, random_state_dict):
    state = random_state_dict(build("resnet18"))
    model = build("se_resnet18", blocks=(2, 1, 1, 1), num_classes=3)
    head = arrays(model)["head.kernel"]
    report = init_from_plain(model, state, source="timm")
    np.testing.assert_array_equal(arrays(model)["head.kernel"], head)
    assert {"head.kernel", "head.bias", "stage1.block1.recalibration.squeeze.kernel"} <= set(report.new)
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
    assert {"head.kernel", "head.bias"} <= set(init_from_plain(model, backbone, source="timm").new)


def test_what_should_fit_and_does_not(build, random_state_dict):
    state = random_state_dict(build("resnet18"))
    with pytest.raises(
        WeightsError, match=r"1 problems:\n  conv1.weight: shape \(64, 3, 7, 7\), expected \(64, 4, 7, 7\)"
    ):
        init_from_plain(build("resnet18", in_channels=4), state, source="timm")
    before = arrays(model := build("aa_resnet18", blocks=(2, 1, 1, 1), num_classes=7, num_heads=2))
    del state["layer2.0.conv1.weight"], state["layer2.0.bn1.weight"]
    with pytest.raises(
        WeightsError, match=r"2 problems:\n.*layer2.0.bn1.weight: missing.*\n.*layer2.0.conv1.weight: mis"
    ):
        init_from_plain(model, state, source="timm")
    for path, value in arrays(model).items():
        np.testing.assert_array_equal(value, before[path])
    with pytest.raises(WeightsError, match="nothing fits; the keys begin with a"):
        init_from_plain(build("resnet18"), {"a": np.zeros(2, np.float32)}, source="timm")


@pytest.mark.few
@pytest.mark.parametrize(
    ("options", "head_is_new"),
    [({}, False), (dict(pooling_tokens="class"), False), (dict(pooling_width=24), True), (dict(num_classes=3), True)],
    ids=["single", "class", "narrow", "classes"],
)
def test_attention_pooling_starts_fresh(build, random_state_dict, options, head_is_new):
    """The classifier is taken over as a whole if its shape is that of the plain one, and else not at all."""
    state = random_state_dict(build("resnet18"))
    model = build("resnet18", pooling="attention", **options)
    fresh = arrays(model)
    report = init_from_plain(model, state, source="timm")
    pooling = {path for path in fresh if path.startswith("pooling.")}
    head = {"head.kernel", "head.bias"}
    assert set(report.new) == pooling | (head if head_is_new else set()) and not report.partial
    assert set(report.unused) == ({"fc.weight", "fc.bias"} if head_is_new else set())
    for path in report.new:
        np.testing.assert_array_equal(arrays(model)[path], fresh[path])
    if not head_is_new:
        np.testing.assert_array_equal(arrays(model)["head.kernel"], state["fc.weight"].T)


def test_attention_pooling_from_attention_pooling(build):
    """With other classes the tokens are new; everything else of the pooling is taken over and must fit."""
    options = dict(depth=10, widen_factor=1, image_size=(8, 8), pooling="attention")
    first = build("wide_resnet28_10", **options, pooling_tokens="class", num_classes=7)
    state = arrays(first)
    model = build("wide_resnet28_10", **options, pooling_tokens="class", num_classes=3)
    assert set(init_from_plain(model, state, source="aa_flax").new) == {"pooling.tokens", "head.kernel", "head.bias"}
    single = build("wide_resnet28_10", **options, num_classes=7)
    assert init_from_plain(single, state, source="aa_flax").new == ("pooling.tokens",)
    with pytest.raises(WeightsError, match=r"pooling.mlp1.kernel: shape \(64, 192\), expected \(64, 64\)"):
        init_from_plain(build("wide_resnet28_10", **options, pooling_mlp_ratio=1.0), state, source="aa_flax")
    wrong = {**state, "head.kernel": state["head.kernel"][:-1]}
    plain = build("wide_resnet28_10", depth=10, widen_factor=1, image_size=(8, 8), num_classes=7)
    with pytest.raises(WeightsError, match=r"head.kernel: shape \(63, 7\), expected \(64, 7\)"):
        init_from_plain(plain, wrong, source="aa_flax")
