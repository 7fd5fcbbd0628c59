import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import resolve
from aa_flax.data.augment import device as augment
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.tasks import make_task
from aa_flax.tasks.losses import binary_cross_entropy, cross_entropy, target_distribution
from aa_flax.training.optimizers import optimizer
from aa_flax.training.state import create_state
from aa_flax.training.step import make_train_step

CLASSES = tuple("abcde")


MEAN, STD = (0.3, 0.4), (0.2, 0.5)


def preprocessing(channels=2):
    return Preprocessing((4, 6), channels, MEAN[:channels], STD[:channels], CLASSES, "float32", "")


def linear(params, batch_stats, images, *, train=False, rngs=None):
    """Return the logits of a linear classifier, and the number of its calls instead of batch statistics."""
    logits = images.reshape(images.shape[0], -1) @ params["kernel"]
    return logits, {"calls": batch_stats["calls"] + 1} if train else batch_stats


def setup(rng, channels=2, apply=linear, **changes):
    options = {name: changes.pop(name) for name in ("loss", "binary_targets", "label_smoothing") if name in changes}
    config = resolve(
        {
            "batch_size": 12,
            "epochs": 1,
            "task": {"options": options},
            "data": {"flip": False, **changes.pop("data", {})},
            "optimizer": {"schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "momentum": 0.0, **changes},
        }
    )
    chain, task = optimizer(config.optimizer, 10, 5), make_task(config, preprocessing(channels))
    params = {"kernel": jnp.asarray(rng.normal(size=(24 * channels, 5)), jnp.float32)}
    ema = bool(config.optimizer.ema_decay)
    state = create_state(params, {"calls": jnp.zeros((), jnp.int32)}, chain, ema, task.metrics)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (12, 4, 6, channels)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 5, 12), jnp.int32),
    }

    def losses(params, batch_stats, images, targets, *, train, rngs):
        logits, batch_stats = apply(params, batch_stats, images, train=train)
        return task.losses(lambda *_, **__: logits, images, targets, train=train, rngs=None), batch_stats

    return make_train_step(task, losses, chain, config), state, batch


def test_one_step_by_hand(rng):
    step, state, batch = setup(rng, learning_rate=0.3, label_smoothing=0.2, ema_decay=0.9)
    new = jax.jit(step)(state, batch)
    x = (np.asarray(batch["image"], np.float64) / 255 - (0.3, 0.4)) / (0.2, 0.5)
    x = x.reshape(12, -1)
    kernel = np.asarray(state.params["kernel"], np.float64)
    logits = x @ kernel
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    targets = np.full((12, 5), 0.2 / 5)
    targets[np.arange(12), batch["label"]] += 0.8
    gradient = x.T @ (p - targets) / 12
    np.testing.assert_allclose(new.params["kernel"], kernel - 0.3 * gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(new.ema["params"]["kernel"], new.params["kernel"])  # the average of one
    after = jax.jit(step)(new, batch)
    np.testing.assert_allclose(
        after.ema["params"]["kernel"], (0.9 * new.params["kernel"] + after.params["kernel"]) / 1.9, rtol=1e-4, atol=1e-5
    )
    assert int(new.step) == 1 and int(new.window["steps"]) == 1
    np.testing.assert_allclose(new.window["loss"], -np.mean(np.sum(targets * np.log(p), 1)), rtol=1e-5)
    np.testing.assert_allclose(new.window["grad_norm"], np.linalg.norm(gradient), rtol=1e-4)
    right = np.sum(logits.argmax(1) == np.asarray(batch["label"]))
    assert jax.tree.map(int, new.window["metrics"]) == {"accuracy": {"sum": right, "count": 12}}
    assert int(new.skipped) == 0


@pytest.mark.few
@pytest.mark.parametrize("pieces", [2, 3])
def test_accumulation_is_the_mean_over_pieces(rng, pieces):
    whole, state, batch = setup(np.random.default_rng(0))
    cut, _, _ = setup(np.random.default_rng(0), accumulation_steps=pieces)
    a, b = jax.jit(whole)(state, batch), jax.jit(cut)(state, batch)
    np.testing.assert_allclose(a.params["kernel"], b.params["kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a.window["loss"], b.window["loss"], rtol=1e-5)
    chex.assert_trees_all_equal(a.window["metrics"], b.window["metrics"])
    assert int(a.batch_stats["calls"]) == 1 and int(b.batch_stats["calls"]) == pieces


def test_accumulation_under_x64():
    with jax.enable_x64(True):
        step, state, batch = setup(np.random.default_rng(0), accumulation_steps=2)
        assert int(jax.jit(step)(state, batch).step) == 1


def test_draws_are_a_function_of_seed_and_step(rng):
    step, state, batch = setup(rng, data={"flip": True, "mixup": 0.3, "cutout": 2})
    run = jax.jit(step)
    first, again = run(state, batch), run(state, batch)
    np.testing.assert_array_equal(first.params["kernel"], again.params["kernel"])
    moved = run(dataclasses.replace(state, step=state.step + 1), batch)
    assert np.abs(np.asarray(moved.params["kernel"]) - np.asarray(first.params["kernel"])).max() > 1e-4


@pytest.mark.thorough
def test_color_jitter_has_a_key_of_its_own():
    """A step with jitter equals a step without on images that were jittered before: all other draws are the same."""
    others = {"flip": True, "cutout": 2}
    step, state, batch = setup(np.random.default_rng(0), 1, data={**others, "color_jitter": 0.6})
    plain, _, _ = setup(np.random.default_rng(0), 1, data=others)
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    jitter_key = jax.random.fold_in(key, 3)
    taken = np.asarray(jax.random.key_data(jax.random.split(key, 3)))
    assert (taken != np.asarray(jax.random.key_data(jitter_key))).any(-1).all()
    pixels = jax.jit(lambda images: augment.color_jitter(jitter_key, images, 0.6))(batch["image"])
    a, b = jax.jit(step)(state, batch), jax.jit(plain)(state, {**batch, "image": pixels})
    np.testing.assert_allclose(a.params["kernel"], b.params["kernel"], rtol=1e-5, atol=1e-6)
    unjittered = jax.jit(plain)(state, batch)
    assert np.abs(np.asarray(a.params["kernel"]) - np.asarray(unjittered.params["kernel"])).max() > 1e-3


def diverging(params, batch_stats, images, *, train=False, rngs=None):
    """Return the linear classifier's logits, NaN if the first input exceeds 3, and times 1e30 if it exceeds 2.5."""
    logits, stats = linear(params, batch_stats, images, train=train)
    flag = images[0, 0, 0, 0]
    return jnp.where(flag > 3, jnp.nan, jnp.where(flag > 2.5, logits * 1e30, logits)), stats


@pytest.mark.few(3)
@pytest.mark.parametrize("pixel", [255, 216])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(rng, pixel, pieces):
    step, state, batch = setup(
        rng, apply=diverging, ema_decay=0.9, momentum=0.9, schedule="cosine", accumulation_steps=pieces
    )
    run = jax.jit(step)
    good = {**batch, "image": batch["image"].at[0, 0, 0, 0].set(0)}
    bad = {**batch, "image": batch["image"].at[0, 0, 0, 0].set(pixel)}
    before = run(state, good)
    after = run(before, bad)
    assert int(after.step) == 2 and int(after.skipped) == 1
    assert after.bad_steps.tolist() == [1] + 7 * [-1]
    kept = [field.name for field in dataclasses.fields(state) if field.name not in ("step", "skipped", "bad_steps")]
    chex.assert_trees_all_equal(*({name: getattr(x, name) for name in kept} for x in (after, before)))
    for _ in range(9):
        after = run(after, bad)
    assert int(after.skipped) == 10 and after.bad_steps.tolist() == list(range(10, 2, -1))
    # Skipped steps do not advance the schedule: the next good step is the second, with the draws of the eleventh batch.
    again = run(dataclasses.replace(before, step=after.step), good)
    chex.assert_trees_all_equal(run(after, good).params, again.params)


def test_losses():
    targets = target_distribution(jnp.asarray([2, 0]), 4, 0.2)
    np.testing.assert_allclose(targets, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)
    logits = jnp.asarray([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]], jnp.bfloat16)
    loss = cross_entropy(logits, targets.astype(jnp.float32))
    assert loss.dtype == jnp.float32
    log_p = np.log(np.exp([1, 2, 3, 4]) / np.exp([1, 2, 3, 4]).sum())
    np.testing.assert_allclose(loss, [-np.sum(np.asarray(targets[0]) * log_p), np.log(4)], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_binary_cross_entropy(rng, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        compute = jnp.promote_types(dtype, jnp.float32)
        logits = jnp.asarray(4 * rng.normal(size=(3, 5)), dtype).at[0, 0].set(-60)
        targets = jnp.asarray(rng.uniform(size=(3, 5)), compute)
        loss = binary_cross_entropy(logits, targets)
    assert loss.dtype == compute
    x, t = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    expected = t * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x))
    np.testing.assert_allclose(loss, expected.mean(1), rtol=1e-12 if dtype == jnp.float64 else 1e-5)


@pytest.mark.few
@pytest.mark.parametrize("binary", [False, True])
def test_a_step_on_binary_cross_entropy(rng, binary):
    """The gradient is (σ(x) - t) / classes; with `binary_targets` t is 1 for both classes of a mixed image."""
    changes = dict(loss="binary_cross_entropy", binary_targets=binary, learning_rate=0.3, data={"mixup": 0.7})
    step, state, batch = setup(rng, **changes)
    new = jax.jit(step)(state, batch)
    config = resolve({"data": {"flip": False, "mixup": 0.7}})
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    images, targets, _ = jax.jit(make_task(config, preprocessing()).prepare)(batch, key)
    x, t = (np.asarray(a, np.float64).reshape(12, -1) for a in (images, targets["distribution"]))
    assert ((t > 0) & (t < 1)).any() and (t.sum(1).round(5) == 1).all()
    t = (t > 0) * 1.0 if binary else t
    kernel = np.asarray(state.params["kernel"], np.float64)
    logits = x @ kernel
    gradient = x.T @ (1 / (1 + np.exp(-logits)) - t) / 5 / 12
    np.testing.assert_allclose(new.params["kernel"], kernel - 0.3 * gradient, rtol=1e-4, atol=1e-5)
    loss = np.mean(t * np.log1p(np.exp(-logits)) + (1 - t) * np.log1p(np.exp(logits)))
    np.testing.assert_allclose(new.window["loss"], loss, rtol=1e-5)
