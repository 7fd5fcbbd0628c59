"""Costs of Pallas kernels as their authors estimate them, for GPUs, where the compiled text does not repeat them."""

from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def estimated_flops(traced: Any) -> int:
    """Return the floating-point operations of all kernels that a program calls, per device; 0 for one without estimate.

    The body of a loop counts as often as it runs, once where that is not known; of a conditional the smallest branch.

    Args:
        traced: the program as `jax.jit(function).trace(...)` returns it.
    """
    return _flops(traced.jaxpr.jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "pallas_call":
            estimate = params["cost_estimate"]
            total += estimate.flops if estimate else 0
            continue
        inner = [_flops(each) for each in _jaxprs(params.values())]
        if inner:
            total += min(inner) if name == "cond" else sum(inner) * (params["length"] if name == "scan" else 1)
    return total


def _jaxprs(values: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
