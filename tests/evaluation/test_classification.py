import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.evaluation import evaluate, make_eval_step


def batches(images, labels, size):
    """As the pipeline gives them: padded at the end and masked."""
    for start in range(0, len(labels), size):
        image, label = images[start : start + size], labels[start : start + size]
        missing = size - len(label)
        yield {
            "image": np.concatenate([image, np.zeros((missing, *image.shape[1:]), np.uint8)]),
            "label": np.concatenate([label, np.zeros(missing, np.int32)]),
            "mask": np.arange(size) < len(label),
        }


@pytest.mark.parametrize("size", [4, 7, 11, 16])
def test_each_example_counts_once_whatever_the_batch(rng, size):
    images = rng.integers(0, 256, (11, 2, 3, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, 11).astype(np.int32)
    kernel = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32) / 100

    def predict(kernel, images):
        return images.reshape(images.shape[0], -1).astype(jnp.float32) @ kernel

    step = jax.jit(make_eval_step(predict, 5))
    scores = evaluate(step, kernel, batches(images, labels, size))
    logits = images.reshape(11, -1).astype(np.float64) @ np.asarray(kernel, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert scores.examples == 11
    assert scores.loss == pytest.approx(-log_p[np.arange(11), labels].mean(), rel=1e-5)
    assert scores.accuracy == pytest.approx(np.mean(logits.argmax(1) == labels))
    for k, accuracy in enumerate(scores.accuracy_per_class):
        own = labels == k
        assert np.isnan(accuracy) if not own.any() else accuracy == pytest.approx(np.mean(logits[own].argmax(1) == k))


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no example to evaluate"):
        evaluate(lambda *_: {}, None, [])
