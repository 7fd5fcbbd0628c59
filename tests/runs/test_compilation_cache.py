"""Tests of compiled programs in the run directory, and of damaged ones."""

import jax
import jax.numpy as jnp
import pytest

from aa_flax.runs import compilation_cache
from aa_flax.runs.compilation_cache import CompilationCache
from aa_flax.runs.manifest import NAME


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Yield a folder for the cache while JAX has none and stores every compilation; then restore the tests' cache."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache, "_SHORTEST", 0.0)
    yield tmp_path / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.compilation_cache.reset_cache()


def compiled(folder):
    """Compile a program with the cache and return the time of writing of each entry, by name."""
    with CompilationCache(folder):
        jax.clear_caches()
        assert float(jax.jit(lambda x: jnp.sin(x) * 3)(jnp.float32(1.0))) == pytest.approx(2.5244, rel=1e-4)
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir() if file.name.endswith("-cache")}


@pytest.mark.thorough
def test_a_second_start_writes_nothing(folder):
    first = compiled(folder)
    assert first and (folder / NAME).exists()
    assert jax.config.jax_compilation_cache_dir is None
    CompilationCache(folder).clean()
    assert compiled(folder) == first


@pytest.mark.thorough
@pytest.mark.parametrize("harm", ["truncated", "flipped", "not vouched for"])
def test_damaged_entries_are_removed_and_made_again(folder, harm):
    """JAX would warn of a damaged entry, which is an error in tests."""
    first = compiled(folder)
    file = folder / next(iter(first))
    content = file.read_bytes()
    if harm == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        (folder / "cut-off-cache").write_bytes(content[:100])
        file = folder / "cut-off-cache"
    CompilationCache(folder).clean()
    assert not file.exists() and len(list(folder.glob("*-cache"))) == len(first) - (harm != "not vouched for")
    assert compiled(folder).keys() == first.keys()


def test_a_cache_of_the_users_own_is_left_alone(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    with CompilationCache(folder) as cache:
        cache.vouch()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert not folder.exists()
