import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.evaluation.classification import confusion_and_loss, in_top, per_class
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
    assert "top5_accuracy" not in scores.values  # five classes are always among five


@pytest.mark.parametrize(("classes", "size"), [(6, 4), (23, 7), (23, 16)])
def test_the_five_of_largest_logits_may_be_named(rng, classes, size):
    """Of equal logits the first classes, and NaN before all, as argmax has it."""
    logits = rng.integers(-3, 4, (16, classes)).astype(np.float32)
    logits[3] = 0
    logits[4, 2:4] = np.nan
    logits[5] = np.nan
    logits[6, ::2] = -np.inf
    labels = rng.integers(0, classes, 16).astype(np.int32)
    names = tuple(f"class {k}" for k in range(classes))
    task = make_task(resolve({}), dataclasses.replace(PREPROCESSING, class_names=names))
    step, top1, totals = jax.jit(lambda *batch: task.score(batch[0], {"label": batch[1], "mask": batch[2]})), 0, None
    for start in range(0, 13, size):  # three are left out
        mask = np.arange(start, start + size) < 13
        here = np.minimum(np.arange(start, start + size), 12)
        sums = step(logits[here], labels[here], mask)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        top1 += int(in_top(*map(jnp.asarray, (logits[here], labels[here], mask)), 1))
    first = [sorted(range(classes), key=lambda k, row=row: (-np.nan_to_num(row[k], nan=np.inf), k)) for row in logits]
    named = sum(label in order[:5] for label, order in zip(labels[:13], first, strict=False))
    scores = task.scores(totals)
    assert scores.values["top5_accuracy"] == named / 13 and 0 < named < 13
    assert scores.values["accuracy"] == top1 / 13
    assert {"accuracy", "top5_accuracy"} <= task.fractions
