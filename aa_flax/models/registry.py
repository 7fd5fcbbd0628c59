"""Registry of all networks by name, and `create_model`, which builds one."""

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.json_values import as_tuples
from aa_flax.models.attending import require_attention
from aa_flax.models.entries import Entry, Family, Surrounded
from aa_flax.models.traced_rngs import for_trace
from aa_flax.typed import as_type, sides


@dataclass(frozen=True)
class BuiltFrom:
    """The arguments of `create_model` from which a network was built; the network has them as `built_from`.

    `create_model(**built_from.arguments(), rngs=...)` builds the same network again. `options` holds only the overrides
    that were given, as pairs; the other attributes hold the values used, defaults included.
    """

    name: str
    num_classes: int
    image_size: tuple[int, ...]
    in_channels: int
    dtype: np.dtype
    param_dtype: np.dtype
    options: tuple[tuple[str, Any], ...]

    def arguments(self) -> dict[str, Any]:
        """Return all arguments of `create_model` but `rngs`."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "in_channels": self.in_channels,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            **dict(self.options),
        }


_entries: dict[str, Entry] = {}
_families: dict[str, Family] = {}

NO_OPTIONS = {
    "num_classes": "the data set says how many there are",
    "image_size": "'data.image_size' of a config says it",
    "in_channels": "the data set says how many there are",
    "dtype": "'model.dtype' of a config says it",
    "param_dtype": "'model.param_dtype' of a config says it",
    "rngs": "'seed' of a config says it",
    "name": "'model.name' of a config says it",
}
"""Arguments of `create_model` that are no options, and where the config of a run has them."""

_FEATURES = "every network gives its maps by model.features(images), and with num_classes=0 has no classifier"
_WEIGHTS = "aa_flax.weights.load_torch_state_dict and init_from_plain take weights into a network, from a file"
_ELSEWHERE = {
    "in_chans": "it is called in_channels here",
    "img_size": "it is called image_size here",
    "features_only": _FEATURES,
    "out_indices": _FEATURES,
    "pretrained": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "weights": _WEIGHTS,
    "drop_rate": "it is called dropout_rate here, in networks that have dropout",
    "drop_path": "it is called drop_path_rate here",
    "global_pool": "it is called pooling here, 'average' or 'attention'",
    "norm_layer": "it is called norm here",
    "init_values": "it is called layer_scale_init here, in networks that have it",
}
"""For option names of timm and torchvision, what this library has instead."""


def register(
    name: str,
    network: Callable[..., nnx.Module],
    options: type,
    *,
    plugs: Mapping[str, type] | None = None,
    defaults: Mapping[str, Any] | None = None,
    num_classes: int,
    image_size: tuple[int, int],
    strides: tuple[int, ...] = (),
    pyramid: type | None = None,
    dimensions: tuple[int, ...] = (2,),
) -> None:
    """Register a network under a name; see `Entry` for the arguments.

    With the strides of its maps given, it is a backbone too: `retinanet_NAME` is a name then, if they serve, or if it
    makes a pyramid of maps at other strides.

    Raises:
        ValueError: the name is taken, or `defaults` names an option that the model does not have.
    """
    if name in _entries:
        raise ValueError(f"a model named {name!r} is registered already")
    sizes = num_classes, image_size, strides, pyramid, dimensions
    entry = Entry(network, options, plugs or {}, defaults or {}, *sizes)
    if unknown := sorted({*entry.defaults} - {*entry.types}):
        raise ValueError(f"{name} has no option {', '.join(unknown)} that a default could be of")
    _entries[name] = entry


def register_family(family: Family) -> None:
    """Register the networks of a family around every network that is registered or will be, and can be a backbone.

    Nothing is made for each of them until it is asked for.

    Raises:
        ValueError: the prefix is taken.
    """
    if family.prefix in _families:
        raise ValueError(f"a family of networks with the prefix {family.prefix!r} is registered already")
    _families[family.prefix] = family


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    in_channels: int = 3,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **overrides: Any,
) -> nnx.Module:
    """Build a network by name.

    Args:
        name: one of `list_models()`.
        num_classes: width of the classifier; None is the model's own (100 for Wide-ResNet), 0 is no classifier.
        image_size: (height, width), or one number for both, of the images for which position tables are made; None is
            the model's own ((32, 32) for Wide-ResNet). Calls accept images of other sizes too. With (length,) a
            Wide-ResNet is a network of signals, with (depth, height, width) one of volumes.
        in_channels: channels of the images.
        dtype, param_dtype: floating-point types of the computation and of the parameters.
        rngs: source of the initial weights, for example `nnx.Rngs(0)`. They are drawn on the host; inside a trace JAX
            draws them, and the numbers are others (`aa_flax.layers.initializers`).
        overrides: any option of the model (`model_options`), for example `depth=40` or `kappa=0.25`.

    Returns:
        A module called as `model(images [b,h,w,c], *, train=None, rngs=None) -> logits [b, classes]`, or, with
        num_classes=0, pooled features [b, width]. train=None is the mode that `model.train()` and `model.eval()` set,
        which is evaluation at first. The module has all arguments as `built_from`, and as `without_attention` the
        layers that were to attend but are too narrow for it; a warning names them. `create_model` can be traced:
        `nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))` builds shapes only.

    Raises:
        ValueError: an unknown name (the message has the nearest known ones), settings that the network refuses, or an
            augmented network none of whose layers would attend.
        TypeError: an unknown override (the message has the nearest known ones), or a value of another type.
    """
    entry = _find(name)
    checked = _checked(name, entry, overrides)
    _require_types(num_classes, in_channels, dtype, param_dtype, rngs)
    built_from = BuiltFrom(
        name,
        entry.classes(checked) if num_classes is None else int(num_classes),
        entry.image_size if image_size is None else sides("image_size", image_size, entry.dimensions),
        int(in_channels),
        jnp.dtype(dtype),
        jnp.dtype(param_dtype),
        # Attributes of a module are static and must be hashable, which a list is not.
        tuple((key, as_tuples(value)) for key, value in sorted(overrides.items())),
    )
    model, with_features = entry.build(
        checked,
        num_classes=built_from.num_classes,
        image_size=built_from.image_size,
        in_channels=built_from.in_channels,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=for_trace(rngs),
    )
    model.built_from = built_from
    model.without_attention = require_attention(model, name, with_features)
    return model


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Return the sorted names of the networks that match a shell pattern such as "aa_*".

    Args:
        pattern: the shell pattern; "*" is all names.
        task: what the networks are for, "classification", "detection" or "segmentation"; None is anything.

    Raises:
        ValueError: an unknown task.
    """
    tasks = ("classification", *dict.fromkeys(family.task for family in _families.values()))
    if task is not None and task not in tasks:
        raise ValueError(f"task must be one of {tasks} or None, got {task!r}")
    names = [*_entries] if task in (None, "classification") else []
    names += (name for name, family in _surrounded() if task in (None, family.task))
    return sorted(fnmatch.filter(names, pattern))


def _surrounded() -> Iterator[tuple[str, Family]]:
    """Yield the name and the family of each network around a backbone."""
    for prefix, family in _families.items():
        yield from ((prefix + name, family) for name, entry in _entries.items() if family.serves(entry))


def model_task(name: str) -> str:
    """Return what a network is for: "classification", "detection" or "segmentation".

    Raises:
        ValueError: an unknown name (the message has the nearest known ones).
    """
    return _find(name).task


def model_options(name: str) -> dict[str, Any]:
    """Return the name and type of each override that `create_model(name, ...)` accepts.

    Raises:
        ValueError: an unknown name (the message has the nearest known ones).
    """
    return _find(name).types


def model_defaults(name: str) -> tuple[int, tuple[int, int]]:
    """Return (number of classes, (height, width)) that `create_model(name, ...)` uses if it is given none.

    Raises:
        ValueError: an unknown name (the message has the nearest known ones).
    """
    entry = _find(name)
    return entry.num_classes, entry.image_size


def backbone_of(name: str) -> str:
    """Return the name of the backbone of a network for detection or segmentation, and of any other its own name.

    Raises:
        ValueError: an unknown name (the message has the nearest known ones).
    """
    if not isinstance(_find(name), Surrounded):
        return name
    return next(rest for prefix in _families if name.startswith(prefix) and (rest := name[len(prefix) :]) in _entries)


def options_around(name: str, **overrides: Any) -> Any:
    """Return the dataclass of options of what stands around the backbone in the network `create_model(name, ...)`.

    Args:
        name: of a network for detection or segmentation.
        overrides: as of `create_model`; those of the backbone have no part in it.

    Raises:
        ValueError, TypeError: as `create_model`; a network that stands around no backbone.
    """
    entry = _find(name)
    if not isinstance(entry, Surrounded):
        others = nearest(name, [name for name, _ in _surrounded()])
        raise ValueError(f"{name!r} is a network for {entry.task} and stands around no backbone{others}")
    return entry.around(_checked(name, entry, overrides))


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return `; did you mean ...?` for an error about a mistyped word, or `; known: ...` if no known word is near."""
    matches = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else f"; known: {', '.join(sorted(known))}"


def _checked(name: str, entry: Entry | Surrounded, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides, converted to the types of their options."""
    types, checked = entry.types, {}
    if unknown := [f"option {option!r}{_where(option, tuple(types))}" for option in overrides if option not in types]:
        raise TypeError(f"{name} has no {'; no '.join(unknown)}")
    for option, value in overrides.items():
        try:
            checked[option] = as_type(types[option], value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{option} {error}") from None
    return checked


def _where(option: str, known: tuple[str, ...]) -> str:
    """Return the end of an error about an unknown option: what to use instead, or which other models have it."""
    if own := [each for each in known if f"_{option}_" in f"_{each}_"]:  # head_width, of box_head_width
        return f"; did you mean {' or '.join(map(repr, sorted(own)))}?"
    others = [name for name in list_models() if option in _find(name).types]
    if others:
        return f"; {', '.join(others[:3])}{' and others' if len(others) > 3 else ''} have it"
    return f"; {_ELSEWHERE[option]}" if option in _ELSEWHERE else nearest(option, (*known, *NO_OPTIONS))


def _require_types(num_classes: Any, in_channels: Any, dtype: Any, param_dtype: Any, rngs: Any) -> None:
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        try:
            floating = jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except TypeError:  # no type at all, such as "foo"
            floating = False
        if not floating:
            raise TypeError(f"{name} must be a floating-point type, such as jnp.bfloat16, got {value!r}")
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(
            f"rngs must be an nnx.Rngs, for example nnx.Rngs(0), got an object of type {type(rngs).__name__}"
        )


def _find(name: str) -> Entry | Surrounded:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, one of list_models(), got {name!r}")
    if name in _entries:
        return _entries[name]
    for prefix, family in _families.items():
        backbone = _entries.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if backbone is None:
            continue
        if not family.serves(backbone):
            raise ValueError(
                f"there is no model named {name!r}: it needs maps at strides {_words(family.strides)}, and those of "
                f"{name.removeprefix(prefix)} have {_words(backbone.strides)}"
            )
        return family.around(backbone)
    raise ValueError(f"there is no model named {name!r}{nearest(name, list_models())}")


def _words(strides: tuple[int, ...]) -> str:
    return ", ".join(map(str, strides)) or "none that are known"
