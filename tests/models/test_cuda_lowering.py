"""Tests that every network lowers for NVIDIA GPUs at its default size, with gradients; nothing is compiled or run."""

import jax
import jax.numpy as jnp
import pytest
from absent_gpu import absent_gpu
from flax import nnx

from aa_flax.layers import AAConv2D
from aa_flax.models import create_model, list_models
from aa_flax.models.registry import model_defaults
from aa_flax.training import functional

# One network of each family, and of each kind of layer whose implementation depends on the platform.
ONE_OF_EACH = (
    "aa_resnet18",
    "cbam_resnet18",
    "aa_wide_resnet28_10",
    "aw_resnet18",
    "aa_mnasnet_075",
    "patchconvnet_s60",
)
OTHERS = [
    # Networks of 101 and 152 layers have the blocks of the 50-layer network, and take half of the time.
    pytest.param(name, marks=pytest.mark.slow if name.endswith(("resnet101", "resnet152")) else pytest.mark.thorough)
    for name in sorted(set(list_models(task="classification")) - set(ONE_OF_EACH))
]


def lowered(name, dtype):
    """Return the text of a forward and backward pass for CUDA, and whether any layer attends."""
    with absent_gpu():
        model = nnx.eval_shape(lambda: create_model(name, dtype=dtype, rngs=nnx.Rngs(0)))
        apply, params, stats = functional(model)
        images = jax.ShapeDtypeStruct((2, *model_defaults(name)[1], 3), dtype)

        def loss(params, stats, images):
            logits, stats = apply(params, stats, images, train=True)
            return jnp.square(logits.astype(jnp.float32)).sum(), stats

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        text = step.trace(params, stats, images).lower(lowering_platforms=("cuda",)).as_text()
    attends = any(isinstance(module, AAConv2D) and module.attends for _, module in nnx.iter_modules(model))
    return text, attends


def check(name, dtype):
    text, attends = lowered(name, dtype)
    assert "stablehlo.convolution" in text
    # "auto" chooses the Triton kernel for all attention.
    assert ("xla.gpu.triton" in text) == attends


@pytest.mark.few(0, thorough=2)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_network_of_each_kind_lowers_for_cuda(name):
    check(name, jnp.bfloat16)


@pytest.mark.few(0, thorough=3)
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_lowers_for_cuda(name):
    check(name, jnp.bfloat16)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["aa_resnet50", "aa_wide_resnet28_10"])
def test_in_float32_too(name):
    check(name, jnp.float32)
