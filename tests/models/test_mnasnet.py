import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model, list_models, mnasnet
from aa_flax.models.mnasnet import scaled
from aa_flax.training import functional


def shapes(name, **options):
    return nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **options))


def test_names():
    names = [f"mnasnet_{width}" for width in ("075", "100", "125", "140")]
    prefixes = ("", "aa_", "aw_", "aw_aa_")
    assert list_models("*mnasnet*", task="classification") == sorted(
        f"{prefix}{name}" for prefix in prefixes for name in names
    )


@pytest.mark.parametrize(
    ("features", "width", "expected"),
    [(32, 1.0, 32), (24, 0.75, 24), (16, 0.75, 16), (40, 0.75, 32), (24, 1.25, 32), (16, 1.4, 24), (3, 1.0, 8)],
)
def test_channels_are_multiples_of_eight_not_below_nine_tenths(features, width, expected):
    assert scaled(features, width) == expected


def test_the_network_is_that_of_the_paper():
    """The sixteen blocks of MnasNet-A1 have the paper's kernels, widths, strides and squeeze-and-excitation."""
    model = shapes("mnasnet_100")
    found = []
    for stage in range(1, 6):
        for i in range(getattr(model, f"stage{stage}").blocks):
            block = getattr(getattr(model, f"stage{stage}"), f"block{i + 1}")
            width = block.depthwise.kernel.shape[-1]
            out = block.project.kernel.shape[-1]
            squeeze = block.squeeze_excite and block.squeeze_excite.squeeze.kernel.shape[1]
            found.append(
                (stage, block.depthwise.kernel.shape[0], width, out, block.depthwise.strides, squeeze, block.adds)
            )
    assert found == [
        (1, 3, 32, 16, 1, None, False),
        (2, 3, 96, 24, 2, None, False),
        (2, 3, 144, 24, 1, None, True),
        (3, 5, 72, 40, 2, 6, False),
        *[(3, 5, 120, 40, 1, 10, True)] * 2,
        (4, 3, 240, 80, 2, None, False),
        *[(4, 3, 480, 80, 1, None, True)] * 3,
        (4, 3, 480, 112, 1, 20, False),
        (4, 3, 672, 112, 1, 28, True),
        (5, 5, 672, 160, 2, 28, False),
        *[(5, 5, 960, 160, 1, 40, True)] * 2,
        (5, 3, 960, 320, 1, None, False),
    ]


def test_what_is_augmented():
    """The expansions of the last 13 blocks attend with 4 heads, downsampled in the stage that begins at 56×56."""
    model = shapes("aa_mnasnet_100")
    found = {
        ".".join(map(str, path)): (module.rel_height.shape[0], module.num_heads, module.key_depth, module.value_depth)
        for path, module in nnx.iter_modules(model)
        if getattr(module, "attends", False)
    }
    assert len(found) == 13 and all(path.endswith(".expand") for path in found)
    assert found["stage3.block1.expand"] == (2 * 28 - 1, 4, 4, 4)  # 72 channels: 7.2 floors to 4, 3.6 rounds to 4
    assert found["stage3.block2.expand"] == (2 * 14 - 1, 4, 12, 8)  # 120 channels: 6, between 4 and 8, rounds up
    assert found["stage5.block4.expand"] == (2 * 7 - 1, 4, 96, 48)


@pytest.mark.thorough
def test_every_parameter_gets_a_gradient(rng, monkeypatch):
    """There are at most two blocks of a kind; four heads leave some of the narrow expansions without attention."""
    monkeypatch.setattr(mnasnet, "GROUPS", [group._replace(repeats=min(group.repeats, 2)) for group in mnasnet.GROUPS])
    model = create_model("aa_mnasnet_100", width=0.25, num_classes=5, image_size=(64, 96), rngs=nnx.Rngs(0))
    assert [info.stride for info in model.feature_info.values()] == [2, 4, 8, 16, 32]
    apply, params, batch_stats = functional(model)
    x = jnp.asarray(rng.normal(size=(2, 64, 96, 3)), jnp.float32)

    def loss(params):
        logits, _ = apply(params, batch_stats, x, train=True)
        return -jax.nn.log_softmax(logits)[:, 3].mean()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_dropout_and_batch_norm_of_the_recipe(rng):
    model = create_model(
        "mnasnet_100",
        width=0.25,
        num_classes=5,
        dropout_rate=0.2,
        batch_norm_epsilon=1e-3,
        batch_norm_momentum=0.99,
        rngs=nnx.Rngs(0),
    )
    assert (model.bn.epsilon, model.stage2.block1.project_bn.momentum) == (1e-3, 0.99)
    with pytest.raises(ValueError, match="train=True with dropout needs rngs"):
        model(jnp.zeros((1, 32, 32, 3)), train=True)
