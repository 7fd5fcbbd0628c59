"""Search for the largest batch that fits, with few compilations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from aa_flax.analysis.plan import Plan, batch_unit
from aa_flax.analysis.programs import Mode, Subject
from aa_flax.analysis.targets import Target


@dataclass(frozen=True)
class Attempt:
    """One size that was tried; `used` is the memory that it needs in bytes, None if that is not known."""

    size: int
    fits: bool
    used: int | None


def largest_that_fits(try_size: Callable[[int], Attempt], start: int, limit: int) -> list[Attempt]:
    """Double or halve from `start` to a size that fits and one that does not, then search between these two.

    Memory grows about linearly with the size, so the sizes in between are guessed from what two others need. The answer
    is exact up to 8 and a multiple of 8 above, because chips hold eight rows in a tile.

    Args:
        try_size: returns the Attempt of a size, which is at least 1.
        start: the first size to try.
        limit: the bytes of memory that there are.

    Returns:
        All attempts in order. The largest that fits is the answer; if none fits, not even size 1 does.
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
    """Return the next size to try, None if none is left between the largest that fits and the smallest that fails."""
    low = max((a for a in attempts if a.fits), key=lambda a: a.size, default=None)
    high = min((a for a in attempts if not a.fits), key=lambda a: a.size, default=None)
    if low is None or high is None:
        return None
    step = 8 if high.size > 8 else 1
    first, last = step * (low.size // step + 1), step * (math.ceil(high.size / step) - 1)
    if first > last:
        return None
    middle = (low.size + high.size) / 2
    # Every third attempt takes the middle, which halves the range also where guesses from memory fail.
    if low.used and high.used and high.used > low.used and len(attempts) % 3:
        middle = low.size + (limit - low.used) * (high.size - low.size) / (high.used - low.used)
    return min(max(step * math.floor(middle / step), first), last)


def sweep_batch(
    subject: Subject, mode: Mode, wanted: Target, mesh: Mesh, planner: Callable[[Subject], Plan]
) -> tuple[Plan, list[Plan]]:
    """Return the plan of the largest batch that fits, and the plans of all batches that were tried.

    The search starts from the subject's batch. If nothing fits, the first plan is that of the smallest batch tried.

    Args:
        subject: the run, with the batch to start from.
        mode: "train" or "infer".
        wanted, mesh: the slice or machine and its devices.
        planner: returns the plan of one batch, for example `functools.partial(plan, ...)`.
    """
    unit = batch_unit(subject, mode, mesh)
    plans: dict[int, Plan] = {}

    def attempt(size: int) -> Attempt:
        plans[size] = found = planner(subject.with_batch(size * unit))
        return Attempt(size, found.fits, found.memory.total or found.memory.temporary)

    attempts = largest_that_fits(attempt, max(subject.config.batch_size // unit, 1), wanted.chip.usable_bytes)
    best = max((a.size for a in attempts if a.fits), default=min(a.size for a in attempts))
    return plans[best], [plans[a.size] for a in attempts]
