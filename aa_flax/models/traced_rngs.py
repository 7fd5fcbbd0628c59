"""A source of initial weights for networks that are built inside a trace."""

import jax
from flax import nnx
from jaxtyping import Array


class TracedRngs(nnx.Rngs):
    """An `nnx.Rngs` whose stream "params" counts its draws in Python.

    The streams of `nnx.Rngs` count in a variable, and setting it asks for the sharding of a traced array, which takes
    JAX time that grows with the trace: 8 of the 11 seconds in which `nnx.eval_shape` builds SE-ResNet-101.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        own, others = jax.random.split(rngs.params())
        super().__init__(others)
        self._key, self._drawn = nnx.RngKey(own, tag="params"), 0

    def params(self) -> Array:
        """Return the next key."""
        self._drawn += 1
        return jax.random.fold_in(self._key[...], self._drawn)


def for_trace(rngs: nnx.Rngs) -> nnx.Rngs:
    """Return `rngs` itself, or inside a trace a source drawn from it that keeps building fast."""
    return TracedRngs(rngs) if isinstance(rngs.params.key[...], jax.core.Tracer) else rngs
