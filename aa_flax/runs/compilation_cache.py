"""Compiled programs kept in the run directory: a run that goes on need not compile again."""

from pathlib import Path
from types import TracebackType

import jax
from jax.experimental.compilation_cache import compilation_cache

from aa_flax.runs.hosts import is_first
from aa_flax.runs.manifest import unvouched, vouch

_FOLDER, _SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_SHORTEST = 0.3  # seconds of compilation that are worth a file


class CompilationCache:
    """JAX's persistent cache in a folder, while this is open; nothing where the user has set JAX's cache already.

    JAX writes entries in place, and one that a kill cut off would be met with a warning at every start and never
    replaced. So the first process vouches for the entries that are whole, and removes all others before they are used.

    Args:
        folder: of the cache, made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ours = False

    def clean(self) -> None:
        """Remove what was not vouched for; in the first process, before any other opens the cache."""
        if is_first() and self._folder.is_dir():
            for file in unvouched(self._folder):
                file.unlink(missing_ok=True)

    def __enter__(self) -> "CompilationCache":
        if getattr(jax.config, _FOLDER) is None:
            self._ours = True
            self._shortest = getattr(jax.config, _SECONDS)
            jax.config.update(_FOLDER, str(self._folder))
            jax.config.update(_SECONDS, _SHORTEST)
            compilation_cache.reset_cache()  # what was compiled before may have settled that there is none
        return self

    def vouch(self) -> None:
        """For all that has been compiled up to now."""
        if self._ours and is_first() and self._folder.is_dir():
            vouch(self._folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self.vouch()
            jax.config.update(_FOLDER, None)
            jax.config.update(_SECONDS, self._shortest)
            compilation_cache.reset_cache()
