"""Compiled programs kept in the run directory, so that a resumed run need not compile again."""

from pathlib import Path
from types import TracebackType

import jax
from jax.experimental.compilation_cache import compilation_cache

from aa_flax.runs.hosts import is_first
from aa_flax.runs.manifest import unvouched, vouch
from aa_flax.runs.paths import RunPath

_FOLDER, _SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_SHORTEST = 0.3  # seconds of compilation that are worth a file


class CompilationCache:
    """JAX's persistent cache in a folder, while this is open; it does nothing where the user has set JAX's cache.

    JAX writes entries in place. One that a kill cut off would cause a warning at every start and never be replaced. So
    the first process keeps a manifest of the complete entries, and removes all others before they are used. In a bucket
    there are complete entries only.

    Args:
        folder: the folder of the cache, created if it does not exist.
    """

    def __init__(self, folder: RunPath) -> None:
        self._folder = folder
        self._ours = False

    def clean(self) -> None:
        """Remove entries that the manifest does not have; in the first process, before any other opens the cache."""
        if is_first() and isinstance(self._folder, Path) and self._folder.is_dir():
            for file in unvouched(self._folder):
                if file.name.endswith(("-cache", "-atime")):  # JAX's names
                    file.unlink(missing_ok=True)

    def __enter__(self) -> "CompilationCache":
        if getattr(jax.config, _FOLDER) is None:
            self._ours = True
            self._shortest = getattr(jax.config, _SECONDS)
            jax.config.update(_FOLDER, str(self._folder))
            jax.config.update(_SECONDS, _SHORTEST)
            compilation_cache.reset_cache()  # JAX may have decided earlier that there is no cache
        return self

    def vouch(self) -> None:
        """Add all that has been compiled up to now to the manifest."""
        if self._ours and is_first() and isinstance(self._folder, Path) and self._folder.is_dir():
            vouch(self._folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self.vouch()
            jax.config.update(_FOLDER, None)
            jax.config.update(_SECONDS, self._shortest)
            compilation_cache.reset_cache()
