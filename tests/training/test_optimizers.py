import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aa_flax.training.config import OptimizerConfig
from aa_flax.training.optimizers import decays, learning_rate, moving_average, optimizer

PARAMS = {
    "conv": {"kernel": 2.0, "bias": 3.0},
    "bn": {"scale": 1.5, "bias": -1.0},
    "conv1": {"rel_height": 0.5, "rel_width": 0.25},
}


def as_arrays(tree):
    return jax.tree.map(lambda x: jnp.full((2, 3), x), tree)


def test_decay_spares_biases_norms_and_tables():
    mask = decays(as_arrays(PARAMS), OptimizerConfig().weight_decay_exclude)
    assert mask == {
        "conv": {"kernel": True, "bias": False},
        "bn": {"scale": False, "bias": False},
        "conv1": {"rel_height": False, "rel_width": False},
    }
    assert all(jax.tree.leaves(decays(as_arrays(PARAMS), ())))


def test_warm_up_then_cosine():
    schedule = learning_rate(OptimizerConfig(learning_rate=0.4, warmup=0.1), 100)
    steps = np.arange(100)
    expected = np.where(steps < 10, 0.4 * steps / 10, 0.2 * (1 + np.cos(np.pi * (steps - 10) / 90)))
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-5, atol=1e-6)
    constant = learning_rate(OptimizerConfig(learning_rate=0.4, warmup=0.0, schedule="constant"), 100)
    assert constant(0) == constant(99) == pytest.approx(0.4)


@pytest.mark.parametrize("mode", ["l2", "decoupled"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clip_norm", [0.0, 0.7])
def test_sgd_by_hand(mode, nesterov, clip_norm):
    config = OptimizerConfig(
        learning_rate=0.3,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.1,
        weight_decay_mode=mode,
        nesterov=nesterov,
        clip_norm=clip_norm,
    )
    chain = optimizer(config, 10)
    params = as_arrays({"kernel": 2.0, "bias": -1.0})
    state = chain.init(params)
    p, v = {"kernel": 2.0, "bias": -1.0}, {"kernel": 0.0, "bias": 0.0}
    for gradient in (0.5, -0.2, 1.0):
        updates, state = chain.update(as_arrays({"kernel": gradient, "bias": 2 * gradient}), state, params)
        params = optax.apply_updates(params, updates)
        g = {"kernel": gradient, "bias": 2 * gradient}
        norm = np.sqrt(6 * (g["kernel"] ** 2 + g["bias"] ** 2))
        if clip_norm and norm > clip_norm:
            g = {name: x * clip_norm / norm for name, x in g.items()}
        for name, decay in (("kernel", 0.1), ("bias", 0.0)):
            pull = decay * p[name]
            step = g[name] + (pull if mode == "l2" else 0)
            v[name] = 0.9 * v[name] + step
            direction = step + 0.9 * v[name] if nesterov else v[name]
            p[name] -= 0.3 * (direction + (pull if mode == "decoupled" else 0))
    for name in p:
        np.testing.assert_allclose(params[name], p[name], rtol=1e-5)


def test_moving_average():
    averaged = moving_average({"a": jnp.asarray(2.0)}, {"a": jnp.asarray(4.0)}, 0.75)
    assert float(averaged["a"]) == pytest.approx(0.75 * 2 + 0.25 * 4)
