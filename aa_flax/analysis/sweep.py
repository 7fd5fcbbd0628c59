"""The largest batch that fits, in as few compilations as it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from aa_flax.analysis.plan import Plan, batch_unit
from aa_flax.analysis.programs import Mode, Subject
from aa_flax.analysis.targets import Target


@dataclass(frozen=True)
class Attempt:
    """One size that was tried; `used` is the memory that it needs, None where that is not known."""

    size: int
    fits: bool
    used: int | None


def largest_that_fits(try_size: Callable[[int], Attempt], start: int, limit: int) -> list[Attempt]:
    """Double or halve from `start` to a size that fits and one that does not, then close in on the limit.

    Memory grows about linearly with the size, so the sizes in between are guessed from what two others need. The answer
    is exact up to 8 and a multiple of 8 beyond: chips hold eight rows to a tile.

    Args:
        try_size: size to Attempt; a size of at least 1.
        start: the first size to try.
        limit: bytes that there are.

    Returns:
        All attempts in their order; the largest that fits is the answer, and none does if not even 1 does.
    """
    attempts = [try_size(start)]
    while attempts[-1].fits and attempts[-1].size < 2**24:
        attempts.append(try_size(2 * attempts[-1].size))
    while not attempts[-1].fits and attempts[-1].size > 1 and not any(a.fits for a in attempts):
        attempts.append(try_size(attempts[-1].size // 2))
    while (size := _between(attempts, limit)) is not None:
        attempts.append(try_size(size))
    return attempts


def _between(attempts: list[Attempt], limit: int) -> int | None:
    """The next size to try, None when there is none between the largest that fits and the smallest that does not."""
    low = max((a for a in attempts if a.fits), key=lambda a: a.size, default=None)
    high = min((a for a in attempts if not a.fits), key=lambda a: a.size, default=None)
    if low is None or high is None:
        return None
    step = 8 if high.size > 8 else 1
    first, last = step * (low.size // step + 1), step * (math.ceil(high.size / step) - 1)
    if first > last:
        return None
    middle = (low.size + high.size) / 2
    # A guess that misses twice in a row is no good: the middle halves what is left whatever memory does.
    if low.used and high.used and high.used > low.used and len(attempts) % 3:
        middle = low.size + (limit - low.used) * (high.size - low.size) / (high.used - low.used)
    return min(max(step * math.floor(middle / step), first), last)


def sweep_batch(
    subject: Subject, mode: Mode, wanted: Target, mesh: Mesh, planner: Callable[[Subject], Plan]
) -> tuple[Plan, list[Plan]]:
    """The plan of the largest batch that fits, and the plans of all that were tried.

    Starts from the subject's batch. Where nothing fits, the first is the plan of the smallest batch there is.

    Args:
        subject: with the batch to start from.
        mode: "train" or "infer".
        wanted, mesh: the slice or machine and its devices.
        planner: compiles one batch, for example `functools.partial(plan, ...)`.
    """
    unit = batch_unit(subject, mode, mesh)
    plans: dict[int, Plan] = {}

    def attempt(size: int) -> Attempt:
        plans[size] = found = planner(subject.with_batch(size * unit))
        return Attempt(size, found.fits, found.memory.total or found.memory.temporary)

    attempts = largest_that_fits(attempt, max(subject.config.batch_size // unit, 1), wanted.chip.usable_bytes)
    best = max((a.size for a in attempts if a.fits), default=min(a.size for a in attempts))
    return plans[best], [plans[a.size] for a in attempts]
