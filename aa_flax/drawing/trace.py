"""Observation of the calls of a model's modules, without code in the modules."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

_PATH = "watched_at"


def module_paths(model: nnx.Module) -> dict[int, str]:
    """Return the dotted path of each sub-module by the module's `id`; the path of the model itself is empty."""
    return {id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model)}


@contextlib.contextmanager
def watched(model: nnx.Module, on_call: Callable[[str, nnx.Module, tuple], None] | None = None) -> Iterator[None]:
    """Run each call of a sub-module under a `jax.named_scope` of its path, after `on_call(path, module, args)`.

    This works eagerly and while tracing, and lasts as long as the context is open. Until then each module has its path
    as an attribute, so that copies have it too: the block that a loop makes of each slice of a template has the
    template's path. The `__call__` of the modules' classes is replaced too, so use this in one thread at a time.
    """
    paths = module_paths(model)
    modules = [module for _, module in nnx.iter_modules(model)]
    kinds = {type(module) for module in modules}
    # A subclass may inherit `__call__`, so it is replaced in the class that defines it.
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
    """Return a sort key of a dotted path that puts block2 before block10."""
    split = [(part.rstrip("0123456789"), part) for part in path.split(".")]
    return [(stem, int(part[len(stem) :] or 0)) for stem, part in split]
