"""Tests of the results of a CUDA device against NumPy in float64 and against the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.ops.relative_attention import IMPLEMENTATIONS
from aa_flax.training import functional
from experiments.benchmarks.gpu import exact, trial
from experiments.benchmarks.gpu.checks import KEY_DEPTH, TOLERANCES, Check

pytestmark = pytest.mark.gpu

NAMES = [name for name in ("paper", "folded", "folded_pieces", "cudnn", "pallas_gpu") if name in IMPLEMENTATIONS]
KINDS = sorted(TOLERANCES)


def test_these_tests_run_on_the_gpu_with_all_optimisations():
    assert jax.default_backend() == "gpu"
    assert jnp.ones(3).devices().pop().platform == "gpu"
    assert not jax.config.read("jax_disable_most_optimizations")


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("size", [(14, 14, 3), (5, 11, 6)], ids=str)
@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_value_and_gradients(name, size, kind):
    if name == "cudnn" and kind[0] == "float32":
        pytest.skip("cuDNN computes in 16 bits only")
    height, width, value_depth = size
    check = Check(height, width, value_depth, batch=2, heads=3, dtype=kind[0], precision=kind[1])
    found = jax.jit(trial.function(name, check.precision))(*trial.arrays(check))
    errors = exact.errors(found, exact.attend(check.inputs(), KEY_DEPTH**-0.5))
    assert max(errors.values()) <= check.tolerance, errors


@pytest.mark.parametrize("name", NAMES)
def test_the_same_twice(name):
    check = Check(7, 8, 2, batch=3, heads=4, dtype="bfloat16", precision="default")
    program = jax.jit(trial.function(name, check.precision))
    first, second = (program(*trial.arrays(check)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("name", [name for name in [*NAMES, "auto"] if name != "cudnn"])
def test_a_small_augmented_network_learns_as_on_the_cpu(name):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 16, 16, 3)).astype(np.float32), np.arange(6, dtype=np.int32) % 5
    cpu = jax.local_devices(backend="cpu")[0]
    results = []
    for implementation, device in ((name, jax.devices()[0]), ("folded", cpu)):
        with jax.default_matmul_precision("highest"), jax.default_device(device):
            model = create_model(
                "aa_wide_resnet28_10",
                num_classes=5,
                image_size=(16, 16),
                implementation=implementation,
                rngs=nnx.Rngs(0),
                depth=10,
                widen_factor=1,
                num_heads=2,
                min_key_depth_per_head=4,
            )
            apply, *variables = functional(model)

            def loss_of(params, batch_stats, images, labels, apply=apply):
                logits, _ = apply(params, batch_stats, images, train=True)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            arguments = jax.device_put((*variables, images, labels), device)
            results.append(jax.jit(jax.value_and_grad(loss_of))(*arguments))
    (loss, gradients), (expected, expected_gradients) = results
    assert abs(float(loss) - float(expected)) < 1e-4
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        # float32 through ten layers of batch norm, whose standard deviations are of few numbers
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3 * max(1e-3, float(np.abs(theirs).max())))
