"""Conversion of a module to a pure function of nested dicts, for `jax.jit`, `jax.grad` and the train loop."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array

PureDict = dict[str, Any]


@runtime_checkable  # the shape checker of the tests calls isinstance
class Apply(Protocol):
    """Function `apply(params, batch_stats, images, *, train=None, rngs=None) -> (outputs, batch_stats)`."""

    def __call__(
        self,
        params: PureDict,
        batch_stats: PureDict,
        *arguments: Any,
        train: bool | None = None,
        rngs: nnx.Rngs | Array | None = None,
        **options: Any,
    ) -> tuple[Any, PureDict]: ...


def functional(model: nnx.Module, call: Callable[..., Any] | None = None) -> tuple[Apply, PureDict, PureDict]:
    """Split a model once into `(apply, params, batch_stats)`.

    `params` and `batch_stats` are nested dicts whose keys are the attribute names and whose leaves are the model's own
    arrays. `apply(params, batch_stats, images, *, train=None, rngs=None)` returns the model's outputs and the batch
    statistics after the call, which only training changes. It has no side effect and is meant for plain `jax.jit` and
    `jax.grad`. With train=None the model is in the mode that it had when it was split. `rngs` is an `nnx.Rngs` made
    inside the trace, or a JAX random key.

    Other keyword arguments, such as `valid` of networks of signals, are passed on.

    With `call`, `apply(params, batch_stats, *arguments, ...)` runs `call(model, *arguments, train=train, rngs=rngs)`
    instead of the model itself.

    Raises:
        ValueError: the model holds variables other than Param and BatchStat.
    """
    split: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    graph, params, batch_stats, rest = split
    if others := [".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]:
        raise ValueError(f"functional() carries Param and BatchStat only; the model also holds {', '.join(others)}")

    in_training = any(getattr(each, "use_running_average", None) is False for _, each in nnx.iter_modules(model))

    def apply(
        params: PureDict,
        batch_stats: PureDict,
        *arguments: Any,
        train: bool | None = None,
        rngs: nnx.Rngs | Array | None = None,
        **options: Any,
    ) -> tuple[Any, PureDict]:
        merged = nnx.merge(graph, params, batch_stats, rest, copy=True)
        if isinstance(rngs, jax.Array):
            rngs = nnx.Rngs(rngs)
        learns = in_training if train is None else train
        run = merged if call is None else functools.partial(call, merged)
        outputs = run(*arguments, train=train, rngs=rngs, **options)
        return outputs, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)) if learns else batch_stats

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
