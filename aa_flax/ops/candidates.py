"""The highest of all scores of all anchors, without sorting them all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int32

from aa_flax.precision import at_least_float32


class Candidates(NamedTuple):
    """Pairs of anchor and class in falling logit; those that are not valid are no candidates."""

    logits: Float[Array, " k"]
    anchors: Int32[Array, " k"]
    classes: Int32[Array, " k"]
    valid: Bool[Array, " k"]


def top_candidates(
    logits: Float[Array | np.ndarray, "anchors classes"], k: int, score_threshold: int | float | None = None
) -> Candidates:
    """Return the `k` pairs of anchor and class with the highest logits, exactly; fewer if there are fewer pairs.

    They are ordered by logit and not by its sigmoid, which is 1 for all logits above 17. Of equal logits the lower
    anchor goes first, then the lower class, as in a stable sort of all. A pair is valid if its logit is neither NaN nor
    -inf and its sigmoid is above `score_threshold`.

    Every pair among the first k is of one of the k anchors whose best class is highest, because each other anchor has k
    pairs before all of its own. So k anchors are chosen by their best class; then groups of their classes likewise; and
    only the pairs in k groups are sorted: some 50,000 for 90 classes and k of 5,000, where sorting all would take
    millions.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
    logits = jnp.asarray(logits)
    classes = logits.shape[1]
    anchors = _best_rows(logits, k)
    width = _group(classes)
    rows = logits[anchors].reshape(-1, width)
    groups = _best_rows(rows, k)
    pairs = _without_nan(rows[groups]).reshape(-1)
    highest, place = jax.lax.top_k(pairs, min(k, pairs.size))
    group = groups[place // width]
    anchor = anchors[group // (classes // width)]
    class_ = group % (classes // width) * width + place % width
    valid = highest > -jnp.inf
    if score_threshold is not None:
        valid &= jax.nn.sigmoid(highest) > score_threshold
    return Candidates(highest, anchor, class_.astype(jnp.int32), valid)


def _best_rows(rows: Array, k: int) -> Array:
    """Return the indices, rising, of the k rows whose largest number is highest; of equal ones the first."""
    number = rows.shape[0]
    if k >= number:
        return jnp.arange(number, dtype=jnp.int32)
    best = _without_nan(rows).max(-1)
    return jnp.sort(jax.lax.top_k(best, k)[1])


def _without_nan(numbers: Array) -> Array:
    """Return the numbers in at least float32, -inf for NaN, which `top_k` takes for the largest number."""
    numbers = numbers.astype(at_least_float32(numbers.dtype))
    return jnp.where(jnp.isnan(numbers), -jnp.inf, numbers)


def _group(classes: int) -> int:
    """Return how many classes form a group: the largest divisor of their number up to its square root, or all."""
    divisors = [divisor for divisor in range(2, int(classes**0.5) + 1) if classes % divisor == 0]
    return max(divisors, default=classes)
