"""Every network by name."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax.numpy as jnp
from flax import nnx

from aa_flax.json_values import as_tuples
from aa_flax.models.heads import OPTIONS as POOLING_OPTIONS


@dataclass(frozen=True)
class Entry:
    """A named network: `build` gets the overrides, the rest are the defaults of `create_model`."""

    build: Callable[..., nnx.Module]
    num_classes: int
    image_size: tuple[int, int]
    options: tuple[str, ...]


@dataclass(frozen=True)
class BuiltFrom:
    """What `create_model` was asked for: the name, and the overrides as pairs. Networks carry it as `built_from`."""

    name: str
    overrides: tuple[tuple[str, Any], ...]


_COMMON = ("num_classes", "image_size", "in_channels", "dtype", "param_dtype", "rngs")
_entries: dict[str, Entry] = {}


def register(
    name: str,
    *,
    network: type[nnx.Module],
    plugs: Mapping[str, Callable[..., Any]] | None = None,
    num_classes: int,
    image_size: tuple[int, int],
) -> Callable[[Callable[..., nnx.Module]], Callable[..., nnx.Module]]:
    """Decorator that names a builder.

    The options of the model are the keywords of `network`, of the factories `plugs` but for the arguments of `network`
    that these make, and what goes with `pooling` if `network` takes that.
    """
    plugs = plugs or {}

    def add(build: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
        if name in _entries:
            raise ValueError(f"a model named {name!r} is registered already")
        keywords = [keyword for factory in plugs.values() for keyword in inspect.signature(factory).parameters]
        keywords += inspect.signature(network.__init__).parameters
        keywords += POOLING_OPTIONS if "pooling" in keywords else ()
        hidden = ("self", *plugs, *_COMMON)
        options = tuple(dict.fromkeys(keyword for keyword in keywords if keyword not in hidden))
        _entries[name] = Entry(build, num_classes, image_size, options)
        return build

    return add


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **overrides: Any,
) -> nnx.Module:
    """Build a network by name.

    Args:
        name: one of `list_models()`.
        num_classes: width of the classifier; None is the model's own (100 for Wide-ResNet).
        image_size: height and width, or one number for both, that position tables are made for; None is the model's
            own ((32, 32) for Wide-ResNet). Other sizes serve at call time all the same.
        in_channels: channels of the images.
        dtype, param_dtype: of the computation and of the parameters.
        rngs: source of the initial weights, for example `nnx.Rngs(0)`; drawn on the host, and inside a trace by JAX
            with other numbers (`aa_flax.layers.initializers`).
        overrides: any option of the model, for example `depth=40` or `kappa=0.25`.

    Returns:
        A module called as `model(images [b,h,w,c], *, train=False, rngs=None) -> logits [b, classes]`, which remembers
        its name and overrides as `built_from`. The call can be traced: `nnx.eval_shape(lambda: create_model(name,
        rngs=nnx.Rngs(0)))` builds shapes only.

    Raises:
        ValueError: an unknown name, with the nearest known ones, or settings that the network refuses.
        TypeError: an unknown override, with the nearest known one, or an argument of another type.
    """
    entry = _find(name)
    for option in overrides:
        if option not in entry.options:
            raise TypeError(f"{name} has no option {option!r}{_where(option, entry.options)}")
    _require_types(num_classes, in_channels, dtype, param_dtype, rngs)
    size = entry.image_size if image_size is None else image_size
    model: Any = entry.build(
        num_classes=entry.num_classes if num_classes is None else num_classes,
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        in_channels=in_channels,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
        **overrides,
    )
    # Static, so hashable: a list would not be.
    model.built_from = BuiltFrom(name, tuple((key, as_tuples(value)) for key, value in sorted(overrides.items())))
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names of all networks that match a shell pattern such as "aa_*", sorted."""
    return sorted(fnmatch.filter(_entries, pattern))


def model_options(name: str) -> tuple[str, ...]:
    """The overrides that `create_model(name, ...)` accepts."""
    return _find(name).options


def model_defaults(name: str) -> tuple[int, tuple[int, int]]:
    """(number of classes, (height, width)) that `create_model(name, ...)` takes where it is told none."""
    entry = _find(name)
    return entry.num_classes, entry.image_size


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """`; did you mean ...?` for an error about a mistyped word, or all that is known."""
    matches = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else f"; known: {', '.join(sorted(known))}"


def _where(option: str, known: tuple[str, ...]) -> str:
    """`; aa_resnet18, ... have it` for an option of other models, else the nearest one of this model."""
    others = [name for name, entry in sorted(_entries.items()) if option in entry.options]
    if not others:
        return nearest(option, known)
    return f"; {', '.join(others[:3])}{' and others' if len(others) > 3 else ''} have it"


def _require_types(num_classes: Any, in_channels: Any, dtype: Any, param_dtype: Any, rngs: Any) -> None:
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if not jnp.issubdtype(value, jnp.floating):
            raise TypeError(f"{name} must be a floating-point type, got {value!r}")
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs, for example nnx.Rngs(0), got {rngs!r}")


def _find(name: str) -> Entry:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, one of list_models(), got {name!r}")
    if name not in _entries:
        raise ValueError(f"there is no model named {name!r}{nearest(name, list(_entries))}")
    return _entries[name]
