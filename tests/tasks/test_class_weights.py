"""Tests of weights of classes in the loss, against its closed form and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data.array_source import ArraySource
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.tolerant import TolerantSource
from aa_flax.tasks import begin, make_task
from aa_flax.training.optimizers import optimizer
from aa_flax.training.state import create_state
from aa_flax.training.step import make_train_step

NAMES = ("ant", "bee", "cat", "dog", "eel")
WEIGHTS = (0.5, 3.0, 1.0, 7.5, 0.25)
PREPROCESSING = Preprocessing((2, 3), 1, (0.5,), (0.25,), NAMES, "float32", "")
KEY = jax.random.key(3)


def task_with(data=None, **options):
    config = {"batch_size": 12, "data": {"flip": False, **(data or {})}, "task": {"options": options}}
    return make_task(resolve(config), PREPROCESSING)


def batch_of(rng, size=12):
    labels = np.concatenate([np.arange(5), rng.integers(0, 5, size - 5)])
    pixels = rng.integers(0, 256, (size, 2, 3, 1))
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": jnp.asarray(labels, jnp.int32)}


def loss_of(task, logits, batch):
    """Return the loss that a step descends on, for a network with these logits, and the prepared targets."""
    images, targets, total = jax.jit(task.prepare)(batch, KEY)
    losses, _ = task.losses(lambda *_, **__: jnp.asarray(logits), images, targets, train=True, rngs=None)
    return float(losses.sum() / total), targets


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_by_its_closed_form(rng, smoothing):
    """The sum of w_y ((1 - e) nll + e mean over classes of w_k / w_y nll_k), divided by the sum of w_y."""
    batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
    found, _ = loss_of(task_with(class_weights=WEIGHTS, label_smoothing=smoothing), logits, batch)
    weights, labels, nll = np.asarray(WEIGHTS), np.asarray(batch["label"]), -log_softmax(logits.astype(np.float64))
    of_class = weights[labels] * nll[np.arange(12), labels]
    everywhere = (weights * nll).sum(1) / 5
    expected = ((1 - smoothing) * of_class + smoothing * everywhere).sum() / weights[labels].sum()
    assert found == pytest.approx(expected, rel=1e-5)
    plain, _ = loss_of(task_with(label_smoothing=smoothing), logits, batch)
    assert abs(plain - expected) > 1e-2


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_that_of_pytorch(rng, smoothing):
    torch = pytest.importorskip("torch")
    batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
    found, _ = loss_of(task_with(class_weights=WEIGHTS, label_smoothing=smoothing), logits, batch)
    theirs = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), label_smoothing=smoothing)
    expected = theirs(torch.from_numpy(logits), torch.from_numpy(np.asarray(batch["label"], np.int64)))
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.few
@pytest.mark.parametrize("smoothing", [0.3, 0.0])
def test_mixed_images_weigh_what_their_classes_do(rng, smoothing):
    batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
    mixup = {"mixup": 0.7}
    found, _ = loss_of(task_with(mixup, class_weights=WEIGHTS, label_smoothing=smoothing), logits, batch)
    shares = np.asarray(loss_of(task_with(mixup), logits, batch)[1]["distribution"], np.float64)  # without smoothing
    assert ((shares > 0) & (shares < 1)).any()
    weights, nll = np.asarray(WEIGHTS), -log_softmax(logits.astype(np.float64))
    targets = (1 - smoothing) * shares + smoothing / 5
    assert found == pytest.approx((weights * targets * nll).sum() / (shares * weights).sum(), rel=1e-5)


@pytest.mark.few
@pytest.mark.parametrize("data", [{"mixup": 0.7}, {}])
@pytest.mark.parametrize("binary", [True, False])
def test_binary_cross_entropy_is_the_weighted_mean_of_images(rng, binary, data):
    batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
    options = {"loss": "binary_cross_entropy", "binary_targets": binary}
    found, _ = loss_of(task_with(data, class_weights=WEIGHTS, **options), logits, batch)
    shares = np.asarray(loss_of(task_with(data), logits, batch)[1]["distribution"], np.float64)
    x, t = logits.astype(np.float64), (shares > 0) if binary else shares
    losses = (t * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x))).mean(1)
    assert found == pytest.approx(np.average(losses, weights=shares @ np.asarray(WEIGHTS)), rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_equal_weights_are_none(rng, loss):
    batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
    options = {"loss": loss, "label_smoothing": 0.2}
    weighted, _ = loss_of(task_with(class_weights=(4.0,) * 5, **options), logits, batch)
    assert weighted == pytest.approx(loss_of(task_with(**options), logits, batch)[0], rel=1e-6)


@pytest.mark.few
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_a_step_in_pieces_divides_by_the_weight_of_the_whole_batch(rng, loss):
    batch, states = batch_of(rng), []
    kernel = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    for pieces in (1, 3):
        config = resolve(
            {
                "batch_size": 12,
                "data": {"flip": False},
                "task": {"options": {"class_weights": WEIGHTS, "loss": loss}},
                "optimizer": {"schedule": "constant", "warmup": 0.0, "accumulation_steps": pieces},
            }
        )
        task, chain = make_task(config, PREPROCESSING), optimizer(config.optimizer, 10, 5)

        def losses(params, batch_stats, images, targets, task=task, **_):
            logits = images.reshape(images.shape[0], -1) @ params["kernel"]
            return task.losses(lambda *_, **__: logits, images, targets, train=True, rngs=None), batch_stats

        state = create_state({"kernel": kernel}, {}, chain, False, task.metrics)
        states.append(jax.jit(make_train_step(task, losses, chain, config))(state, batch))
    np.testing.assert_allclose(states[0].window["loss"], states[1].window["loss"], rtol=1e-5)
    np.testing.assert_allclose(states[0].params["kernel"], states[1].params["kernel"], rtol=1e-5, atol=1e-6)


def labelled(counts):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return ArraySource("made", np.zeros((len(labels), 2, 3, 1), np.uint8), {"label": labels})


def test_balanced_classes_count_the_same(rng):
    counts = np.asarray([3, 1, 17, 2, 5])
    balanced, given = task_with(class_weights="balanced"), task_with(class_weights=tuple(28 / (5 * counts)))
    for source in (labelled(counts), TolerantSource(labelled(counts), 2)):
        begin(balanced, source)
        batch, logits = batch_of(rng), rng.normal(size=(12, 5)).astype(np.float32)
        assert loss_of(balanced, logits, batch)[0] == pytest.approx(loss_of(given, logits, batch)[0], rel=1e-6)


def test_balanced_needs_the_training_split(rng):
    task, batch = task_with(class_weights="balanced"), batch_of(rng)
    with pytest.raises(RuntimeError, match="begin"):
        task.prepare(batch, KEY)
    with pytest.raises(ConfigError, match="the training split has no image of bee, dog$"):
        begin(task, labelled([3, 0, 2, 0, 1]))
    begin(task, None)  # a plan, which counts nothing
    assert jax.eval_shape(task.prepare, batch, KEY)[2].shape == ()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), r"'task.options.class_weights' has 2 numbers for 5 classes: ant, bee, cat, dog, eel$"),
        ((1.0, 2.0, 0.0, 1.0, 1.0), r"'task.options.class_weights' must be \"balanced\" or numbers above 0, got"),
        ("inverse", "'task.options.class_weights' must be .balanced. or numbers above 0, got 'inverse'"),
        ((1.0, float("nan"), 1.0, 1.0, 1.0), r"'task.options' must hold plain values"),
    ],
)
def test_weights_that_are_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        task_with(class_weights=weights)
