import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.evaluation.classification import confusion_and_loss, per_class
from aa_flax.tasks import make_task

PREPROCESSING = Preprocessing((2, 3), 1, (0.5,), (0.25,), tuple("abcde"), "float32", "")


@pytest.mark.parametrize("size", [4, 7, 11, 16])
def test_each_example_counts_once_whatever_the_batch(rng, size):
    """The last batch is padded and masked, as batches of the pipeline are."""
    logits = rng.normal(size=(11, 5))
    labels = rng.integers(0, 3, 11).astype(np.int32)
    step = jax.jit(confusion_and_loss)
    totals = None
    for start in range(0, 11, size):
        mask = np.arange(start, start + size) < 11
        here = np.minimum(np.arange(start, start + size), 10)
        sums = step(jnp.asarray(logits[here], jnp.float32), labels[here], mask)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    np.testing.assert_array_equal(totals["confusion"], confusion)
    scores = make_task(resolve({}), PREPROCESSING).scores(totals)
    assert scores.examples == 11 and scores.details["confusion"] == confusion.tolist()
    assert scores.values["loss"] == pytest.approx(-log_p[np.arange(11), labels].mean(), rel=1e-5)
    assert scores.values["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    for k, accuracy in enumerate(per_class(confusion)):
        own = labels == k
        assert np.isnan(accuracy) if not own.any() else accuracy == pytest.approx(np.mean(logits[own].argmax(1) == k))
    assert scores.details["accuracy_per_class"]["e"] is None
