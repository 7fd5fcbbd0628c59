"""A module as a pure function of pure dicts: what jit, grad and the train loop use."""

from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float

PureDict = dict[str, Any]


@runtime_checkable  # the shape checker of the tests asks
class Apply(Protocol):
    """`apply(params, batch_stats, images, *, train=False, rngs=None) -> (logits, batch_stats)`."""

    def __call__(
        self,
        params: PureDict,
        batch_stats: PureDict,
        images: Float[Array, "b h w c"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | Array | None = None,
    ) -> tuple[Float[Array, "b classes"], PureDict]: ...


def functional(model: nnx.Module) -> tuple[Apply, PureDict, PureDict]:
    """Split a model once into `(apply, params, batch_stats)`.

    `params` and `batch_stats` are nested dicts of arrays whose keys are the attribute names, and are the model's own
    arrays. `apply(params, batch_stats, images, *, train=False, rngs=None)` returns logits and the batch statistics
    after the call (the same ones unless train=True); it changes nothing and is meant for plain `jax.jit` and
    `jax.grad`. `rngs` is an `nnx.Rngs` made inside the trace, or a JAX random key.
    """
    split: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    graph, params, batch_stats, rest = split
    if others := [".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]:
        raise ValueError(f"functional() carries Param and BatchStat only; the model also holds {', '.join(others)}")

    def apply(
        params: PureDict,
        batch_stats: PureDict,
        images: Float[Array, "b h w c"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | Array | None = None,
    ) -> tuple[Float[Array, "b classes"], PureDict]:
        merged = nnx.merge(graph, params, batch_stats, rest, copy=True)
        if isinstance(rngs, jax.Array):
            rngs = nnx.Rngs(rngs)
        logits = merged(images, train=train, rngs=rngs)
        return logits, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)) if train else batch_stats

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
