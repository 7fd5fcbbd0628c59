"""The settings of JAX that decide a run's random draws and rounding: recorded at its birth, compared when it goes on.

Another library in the process, an environment variable or a notebook's first cell may have changed them since.
"""

from typing import Any

import jax
from absl import logging

from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.hosts import is_first

_NAMES = (
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_enable_x64",
    "jax_default_matmul_precision",
)


def settings() -> dict[str, Any]:
    """Return those settings of this process by name."""
    return {name: getattr(jax.config, name) for name in _NAMES}


def mark_run(directory: RunDirectory) -> None:
    """Mark a directory as a run's and record the settings; warn where a run goes on with others than it began with.

    Raises:
        RunDirectoryError: the directory cannot be written.
    """
    if not directory.has_checkpoint:
        directory.mark(jax=settings())
        return
    directory.mark()
    begun = directory.read_mark().get("jax") or {}  # unknown of runs of earlier versions
    changed = [
        f"{name} was {begun[name]!r} and is {now!r}" for name, now in settings().items() if begun.get(name, now) != now
    ]
    if changed and is_first():
        words = ", ".join(changed)
        logging.warning("the run goes on with other settings of JAX, so not as an undisturbed one would: %s", words)
