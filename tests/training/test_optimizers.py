import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aa_flax.config.schema import OptimizerConfig
from aa_flax.training.optimizers import decays, moving_average, optimizer
from aa_flax.training.trust_ratio import trust_ratio

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


def test_names_end_at_dots():
    tree = {"stage1": PARAMS, "bn": {"scale": 1.0}, "abn": {"scale": 1.0}}
    mask = decays(as_arrays(tree), ("bn.scale", "stage1.conv.bias", "ale", "v1.rel_width"))
    spared = {jax.tree_util.keystr(path, simple=True, separator=".") for path, d in paths(mask) if not d}
    assert spared == {"stage1.bn.scale", "bn.scale", "stage1.conv.bias"}


def paths(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


RMS_DECAY, EPSILON = 0.8, 0.02


@pytest.mark.few(3)
@pytest.mark.parametrize("mode", ["l2", "decoupled"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip_norm", [0.7, 0.0])
def test_rmsprop_by_hand(rng, mode, momentum, clip_norm):
    """Updates equal those of TensorFlow 1's RMSPropOptimizer in float64, over steps with different learning rates."""
    config = OptimizerConfig(
        name="rmsprop",
        learning_rate=0.3,
        schedule="exponential",
        warmup=0.2,
        decay_factor=0.6,
        decay_every_epochs=1.5,
        momentum=momentum,
        rms_decay=RMS_DECAY,
        epsilon=EPSILON,
        weight_decay=0.1,
        weight_decay_mode=mode,
        clip_norm=clip_norm,
    )
    p = {name: rng.normal(size=(3, 5)) for name in ("kernel", "bias")}
    chain = optimizer(config, 10, 2)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)
    state = chain.init(params)
    update = jax.jit(chain.update)
    rates = [0.0, 0.15, *(0.3 * 0.6 ** (step // 3) for step in range(2, 10))]
    ms = {name: np.ones((3, 5)) for name in p}
    mom = {name: np.zeros((3, 5)) for name in p}
    for rate in rates:
        g = {name: rng.normal(size=(3, 5)) * 0.3 for name in p}
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), g), state, params)
        params = optax.apply_updates(params, updates)
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        for name, decay in (("kernel", 0.1), ("bias", 0.0)):
            gradient = g[name] * (clip_norm / norm if clip_norm and norm > clip_norm else 1)
            pull = decay * p[name]
            if mode == "l2":
                gradient = gradient + pull
            ms[name] = RMS_DECAY * ms[name] + (1 - RMS_DECAY) * gradient**2
            mom[name] = momentum * mom[name] + rate * gradient / np.sqrt(ms[name] + EPSILON)
            p[name] = p[name] - mom[name] - (rate * pull if mode == "decoupled" else 0)
            np.testing.assert_allclose(params[name], p[name], rtol=1e-5, atol=1e-6)


LAMB = OptimizerConfig(
    name="lamb",
    learning_rate=0.3,
    schedule="constant",
    warmup=0.2,
    beta1=0.8,
    beta2=0.95,
    adam_epsilon=1e-3,
    weight_decay=0.1,
    weight_decay_mode="decoupled",
)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("clip_norm", [0.7, 0.0])
@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_adamw_and_lamb_by_hand(rng, name, clip_norm, weight_decay):
    """Updates equal those in float64; in LAMB, zero weights have trust ratio 1 until they move, the bias always."""
    config, kind = dataclasses.replace(LAMB, name=name, clip_norm=clip_norm, weight_decay=weight_decay), name
    p = {"kernel": rng.normal(size=(3, 5)), "zero": np.zeros((2, 3)), "bias": rng.normal(size=(2, 4))}
    chain = optimizer(config, 10, 2)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)
    state, update = chain.init(params), jax.jit(chain.update)
    m, v = ({name: np.zeros_like(x) for name, x in p.items()} for _ in range(2))
    ratios = []
    for t, rate in enumerate([0.0, 0.15, 0.3, 0.3, 0.3], start=1):
        g = {name: rng.normal(size=x.shape) * 0.3 for name, x in p.items()}
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), g), state, params)
        params = optax.apply_updates(params, updates)
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        for name in p:
            gradient = g[name] * (clip_norm / norm if clip_norm and norm > clip_norm else 1)
            m[name] = 0.8 * m[name] + 0.2 * gradient
            v[name] = 0.95 * v[name] + 0.05 * gradient**2
            direction = m[name] / (1 - 0.8**t) / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-3)
            ratio = 1.0
            if name != "bias":
                direction += weight_decay * p[name]
                if kind == "lamb":
                    ratio = np.linalg.norm(p[name]) / np.linalg.norm(direction) or 1.0
                ratios.append(ratio)
            p[name] = p[name] - rate * ratio * direction
            np.testing.assert_allclose(params[name], p[name], rtol=1e-5, atol=1e-6)
    assert ratios[1] == ratios[3] == 1.0 and ({1.0} & {ratios[0], *ratios[4:]} == set()) == (kind == "lamb")


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_they_are_optaxs_where_nothing_is_spared(rng, name):
    config = dataclasses.replace(LAMB, name=name, weight_decay_exclude=(), warmup=0.0)
    chain, other = optimizer(config, 10, 2), getattr(optax, name)(0.3, 0.8, 0.95, 1e-3, weight_decay=0.1)
    params = {"a": {"bias": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)}, "b": jnp.zeros(4)}
    states = [chain.init(params), other.init(params)]
    for _ in range(3):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
        (one, states[0]), (two, states[1]) = (
            chain.update(grads, states[0], params),
            other.update(grads, states[1], params),
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), one, two)
        params = optax.apply_updates(params, one)


def test_trust_ratio(rng):
    p, u = rng.normal(size=(2, 3, 5))
    for weight, step in ((p, 0 * u), (0 * p, u), (0 * p, 0 * u)):
        assert float(trust_ratio(jnp.asarray(weight), jnp.asarray(step))) == 1
    # float16 cannot hold the squares of these values.
    assert float(trust_ratio(jnp.full(4, 1e4, jnp.float16), jnp.full(4, 1e-4, jnp.float16))) == pytest.approx(
        1e8, rel=0.01
    )
    with jax.enable_x64(True):
        exact = trust_ratio(jnp.asarray(p), jnp.asarray(u))
    assert float(exact) == pytest.approx(np.linalg.norm(p) / np.linalg.norm(u), rel=1e-14)


@pytest.mark.few(3)
@pytest.mark.parametrize("mode", ["l2", "decoupled"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clip_norm", [0.7, 0.0])
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
    chain = optimizer(config, 10, 5)
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


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999, 0.9999, 0.999999])
@pytest.mark.parametrize("x64", [False, True])
def test_moving_average_by_its_closed_form(decay, x64):
    """The average starts at the first value, whatever the random weights before it were."""
    values = np.random.default_rng(3).normal(size=(40, 2, 3)) + 5
    with jax.enable_x64(x64):
        average, bias = {"a": jnp.full((2, 3), 1e3)}, jnp.ones(())
        for count, value in enumerate(values, 1):
            average, bias = moving_average(average, {"a": jnp.asarray(value)}, decay, bias)
            weights = decay ** np.arange(count)[::-1]
            expected = np.average(values[:count], axis=0, weights=weights)
            # In float32, 1 - 0.999999 is 4 % off, which makes the decay another; the weights still add up to 1.
            np.testing.assert_allclose(average["a"], expected, rtol=1e-9 if x64 else 2e-5 if decay < 0.99999 else 0.02)
        assert float(bias) == pytest.approx(decay**40, rel=1e-9 if x64 else 1e-4)
        assert average["a"].dtype == bias.dtype == (jnp.float64 if x64 else jnp.float32)


def test_moving_average_of_an_older_run_goes_on_as_it_began():
    averaged, bias = moving_average({"a": jnp.asarray(2.0)}, {"a": jnp.asarray(4.0)}, 0.75, jnp.zeros(()))
    assert float(averaged["a"]) == 0.75 * 2 + 0.25 * 4 and float(bias) == 0


def test_moving_average_keeps_the_newest_whole_number():
    averaged, _ = moving_average({"calls": jnp.asarray(3)}, {"calls": jnp.asarray(8)}, 0.9, jnp.asarray(0.5))
    assert int(averaged["calls"]) == 8
