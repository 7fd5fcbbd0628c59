"""Which of an image's anchors or proposals the losses look at: a random few, positives among them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int, Int32

from aa_flax.ops.matching import IGNORED, NEGATIVE


class Sample(NamedTuple):
    """What was drawn, positives first; a place that is not valid has index 0 and match -2."""

    indices: Int32[Array, " number"]
    matches: Int32[Array, " number"]
    valid: Bool[Array, " number"]


def sample(
    matches: Int[Array | np.ndarray, " n"], key: Array, *, number: int, positive_fraction: int | float
) -> Sample:
    """Return a random `number` of an image's anchors, at most `positive_fraction` of them positives, without repeats.

    As many positives are drawn as there are, up to int(number * positive_fraction); negatives fill the rest. Fewer
    than `number` are valid if there are too few negatives. Every set of positives is equally likely, and every set of
    negatives. For a batch, `jax.vmap` over matches and keys, by `mesh.on_own_images` lest the compiler gather all of it
    on every device to sort it.

    Args:
        matches: as from `match_anchors`: the index of the object from 0 (a positive), -1 (a negative), -2 (ignored).
    """
    if isinstance(number, bool | float) or number < 1:
        raise ValueError(f"number must be a whole number, at least 1, got {number!r}")
    if not 0 <= positive_fraction <= 1:
        raise ValueError(f"positive_fraction must lie in [0, 1], got {positive_fraction!r}")
    if np.ndim(matches) != 1:
        raise ValueError(f"matches must have the shape [n], got {np.shape(matches)}")
    matches = jnp.asarray(matches).astype(jnp.int32)
    if matches.size == 0:
        matches = jnp.full(1, IGNORED, jnp.int32)  # of nothing, nothing could be read
    n = matches.shape[0]
    quota = int(number * positive_fraction)
    # 31 random bits: those of a float32 are too few for all of a quarter of a million anchors to differ.
    priority = (jax.random.bits(key, (n,), "uint32") >> 1).astype(jnp.int32)

    def drawn(eligible: Array, most: int) -> tuple[Array, Array]:
        _, which = jax.lax.top_k(jnp.where(eligible, priority, -1), min(most, n))
        pad = (0, number - which.shape[0])
        return jnp.pad(which.astype(jnp.int32), pad), jnp.minimum(eligible.sum(dtype=jnp.int32), most)

    positives, positive_count = drawn(matches >= 0, quota)
    negatives, negative_count = drawn(matches == NEGATIVE, number)
    place = jnp.arange(number, dtype=jnp.int32)
    after = place - positive_count
    indices = jnp.where(after < 0, positives, negatives[jnp.maximum(after, 0)])
    valid = after < negative_count
    indices = jnp.where(valid, indices, 0)
    return Sample(indices, jnp.where(valid, matches[indices], IGNORED), valid)
