"""Timing programs that take turns on one machine."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

Program = Callable[[int], object]
"""A program to time: it runs that many times and waits for the last result."""

Key = TypeVar("Key", bound=Hashable)

_LEAST_ROUNDS = 3
_SHORTEST = 0.005  # seconds: shorter programs are run several times between two looks at the clock


def jax_program(compiled: Callable[..., Any], *arguments: Any) -> Program:
    """Return the program that runs a compiled JAX function on fixed arguments."""
    # Otherwise a CPU would run several at once.
    one_by_one = jax.default_backend() == "cpu"

    def run(times: int) -> None:
        result = None
        for _ in range(times):
            result = compiled(*arguments)
            if one_by_one:
                jax.block_until_ready(result)
        jax.block_until_ready(result)

    return run


def several(program: Program, count: int) -> Program:
    """Return the program that runs another `count` times for each of its own runs."""

    def run(times: int) -> None:
        program(count * times)

    return run


def take_turns(programs: Mapping[Key, Program], *, rounds: int, seconds: float) -> dict[Key, list[float]]:
    """Return milliseconds of one run of each program, an entry for each round.

    Rounds go up and down the list in turn. Right before its measurement a program runs once unmeasured, so that its own
    data are in the caches and the threads of the program before it are asleep.

    Args:
        programs: the programs to time.
        rounds: the most rounds.
        seconds: no new round starts after so long, once there are three.
    """
    repeats = {}
    for key, program in programs.items():
        program(1)
        repeats[key] = max(1, min(100, math.ceil(_SHORTEST / _seconds(program, 1))))
    times: dict[Key, list[float]] = {key: [] for key in programs}
    started = time.perf_counter()
    for index in range(rounds):
        if index >= _LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        for key in list(programs)[:: -1 if index % 2 else 1]:
            programs[key](1)
            times[key].append(1e3 * _seconds(programs[key], repeats[key]) / repeats[key])
    return times


def median(times: list[float]) -> float:
    """Return the median of milliseconds, rounded to 3 decimals."""
    return round(statistics.median(times), 3)


def _seconds(program: Program, times: int) -> float:
    started = time.perf_counter()
    program(times)
    return time.perf_counter() - started
