"""Our counts of a network, and their comparison with printed figures."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from aa_flax.drawing.summary import Summary, summarize
from aa_flax.models import create_model


@functools.cache
def _network(model: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return a network as shapes only."""
    return nnx.eval_shape(lambda: create_model(model, rngs=nnx.Rngs(0), **dict(options)))


@functools.cache
def _summary(model: str, options: tuple[tuple[str, Any], ...], image_size: int | tuple[int, int] | None) -> Summary:
    return summarize(_network(model, options), image_size=image_size)


def network(model: str) -> Any:
    """Return a named network as shapes only."""
    return _network(model, ())


def parameters(model: str, options: Mapping[str, Any] | None = None) -> int:
    """Return the number of parameters of a named network, scales and shifts of frozen batch norms among them."""
    params = nnx.state(_network(model, tuple(sorted((options or {}).items()))), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def summary(
    model: str, options: Mapping[str, Any] | None = None, image_size: int | tuple[int, int] | None = None
) -> Summary:
    """Return parameters and FLOPs of a named network; each network is counted once in a process.

    `image_size` is (height, width), or one number for both; None is the network's own.
    """
    return _summary(model, tuple(sorted((options or {}).items())), image_size)


def difference(ours: float, printed: str) -> str:
    """Return "=" if our figure rounds to the printed one, else the relative difference; "" if none is printed."""
    if not printed:
        return ""
    decimals = len(printed.partition(".")[2])
    if f"{ours:.{decimals}f}" == printed:
        return "="
    return f"{100 * (ours / float(printed) - 1):+.1f} %"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(columns)} |".replace("|  |", "| |")
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"
