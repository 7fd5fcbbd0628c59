"""Watching a model's calls from outside, module by module."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

_PATH = "watched_at"


def module_paths(model: nnx.Module) -> dict[int, str]:
    """Dotted path of each sub-module by its id; the model itself is the empty path."""
    return {id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model)}


@contextlib.contextmanager
def watched(model: nnx.Module, on_call: Callable[[str, nnx.Module, tuple], None] | None = None) -> Iterator[None]:
    """While open, each call of a sub-module runs under a `jax.named_scope` of its path and is told to `on_call`.

    `on_call(path, module, args)` runs before the module. Works eagerly and while tracing; modules need no code for it.
    Each module carries its path as an attribute while the context is open, so that copies have it too: the block that a
    loop makes of each slice of a template goes by the template's path. The classes' `__call__` is exchanged as well, so
    use it in one thread at a time.
    """
    paths = module_paths(model)
    modules = [module for _, module in nnx.iter_modules(model)]
    kinds = {type(module) for module in modules}
    # A subclass may inherit its call: the class that defines it is the one to exchange.
    classes = {cls for kind in kinds for cls in kind.__mro__ if "__call__" in vars(cls) and issubclass(cls, nnx.Module)}
    originals = {cls: vars(cls)["__call__"] for cls in classes}

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            path = getattr(self, _PATH, "")
            if not path:
                return original(self, *args, **kwargs)
            if on_call is not None:
                on_call(path, self, args)
            with jax.named_scope(path):
                return original(self, *args, **kwargs)

        return call

    try:
        for module in modules:
            setattr(module, _PATH, paths[id(module)])
        for cls, original in originals.items():
            cls.__call__ = wrap(original)  # type: ignore[method-assign]
        yield
    finally:
        for cls, original in originals.items():
            cls.__call__ = original  # type: ignore[method-assign]
        for module in modules:
            delattr(module, _PATH)


def natural_order(path: str) -> list[tuple[str, int]]:
    """Sort key of a dotted path that puts block2 before block10."""
    split = [(part.rstrip("0123456789"), part) for part in path.split(".")]
    return [(stem, int(part[len(stem) :] or 0)) for stem, part in split]
