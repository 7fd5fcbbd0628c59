import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model, list_models
from aa_flax.models.recalibration import BAMFactory, CBAMFactory, GALAFactory
from aa_flax.models.resnet import ResNet, ResNetOptions
from aa_flax.training import functional

PREFIXES = ("", "se_", "ge_", "bam_", "cbam_", "gala_", "aa_")


def shapes(name, **options):
    return nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **options))


def test_every_name_of_the_family_is_registered():
    prefixes = [*PREFIXES, *(f"aw_{prefix}" for prefix in PREFIXES)]
    expected = {f"{p}resnet{d}" for p in prefixes for d in (18, 34, 50, 101, 152)} | {"fully_attentional_resnet50"}
    assert expected == {name for name in list_models("*resnet*", task="classification") if "wide" not in name}


@pytest.mark.thorough
def test_what_is_augmented():
    """Each block of the last three stages has one augmented 3×3, in basic blocks the first; downsampled at 28×28."""
    model = shapes("aa_resnet50")
    found = {
        ".".join(map(str, path)): (module.rel_height.shape, module.value_depth, module.key_depth, module.strides)
        for path, module in nnx.iter_modules(model)
        if getattr(module, "attends", False)
    }
    # Table 9: 14×14 (pooled), 14×14 and 7×7; depths 8, 24, 48
    expected = {}
    for stage, blocks, rows, value_depth in ((2, 4, 27, 8), (3, 6, 27, 24), (4, 3, 13, 48)):
        for block in range(1, blocks + 1):
            strides = 2 if block == 1 else 1
            expected[f"stage{stage}.block{block}.conv2"] = ((rows, 20), value_depth, 160, strides)
    assert found == expected
    basic = shapes("aa_resnet34")
    assert [getattr(basic.stage2.block1, name).__class__.__name__ for name in ("conv1", "conv2")] == [
        "AAConv2D",
        "Conv",
    ]
    assert basic.stage3.block2.conv1.value_depth == 64 and basic.stage1.block1.conv1.__class__.__name__ == "Conv"
    full = shapes("fully_attentional_resnet50")
    spatial = [m for _, m in nnx.iter_modules(full) if isinstance(m, nnx.Conv) and m.kernel_size != (1, 1)]
    assert len(spatial) == 4  # "the stem and the first stage" (section 4.4)


def test_bam_stands_between_stages():
    model = shapes("bam_resnet50")
    assert [getattr(model, f"attention{i}").squeeze.kernel.shape[0] for i in (1, 2, 3)] == [256, 512, 1024]
    assert not hasattr(model, "attention4") and model.stage1.block1.recalibration is None


# Without optimisations a map is computed twice with different rounding, so the gradient of CBAM's maximum is 0 / 0.
@pytest.mark.few(0, thorough=1)
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("kind", "recalibration"), [("basic", CBAMFactory(gate_scale_init=1.0)), ("bottleneck", GALAFactory())]
)
def test_every_parameter_gets_a_finite_gradient(rng, kind, recalibration):
    """The network has one block in each stage and two attention modules at once."""
    modules = dict(recalibration=recalibration, between_stages=BAMFactory())
    options = ResNetOptions(kind=kind, blocks=(1, 1, 1, 1), **modules)
    model = ResNet(options, num_classes=5, image_size=(33, 64), in_channels=2, rngs=nnx.Rngs(0))
    apply, params, batch_stats = functional(model)
    x = jnp.asarray(rng.normal(size=(3, 33, 64, 2)), jnp.float32)

    def loss(params):
        return -jax.nn.log_softmax(apply(params, batch_stats, x, train=True)[0])[:, 1].mean()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all(), path
        # Batch norm subtracts a bias right before it with the mean.
        before_norm = path[-1].key == "bias" and path[-2].key in ("squeeze", "reduce", "conv1", "conv2")
        if not (before_norm and path[0].key.startswith("attention")):
            assert np.abs(gradient).max() > 0, path


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors():
    with pytest.raises(ValueError, match="blocks must be four numbers"):
        shapes("resnet18", blocks=(1, 2, 3))
    with pytest.raises(ValueError, match="kind must be one of .* got 'wide'"):
        shapes("resnet18", kind="wide")
    with pytest.raises(TypeError, match="resnet50 has no option 'kappa'"):
        shapes("resnet50", kappa=0.1)
