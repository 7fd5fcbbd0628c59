"""What networks around a backbone ask of it: its maps by level, and the batch norms that are its own."""

import math
from typing import Any

from flax import nnx

from aa_flax.layers import BAM, CBAM, GALA, AWConv2D, GatherExcite
from aa_flax.layers.norm import BatchNorm
from aa_flax.layers.plain_pyramid import PlainPyramid

_OTHERS = (AWConv2D, BAM, CBAM, GALA, GatherExcite, PlainPyramid)
"""Modules whose batch norms are none of the network's own: they are part of a gate, or of a pyramid for other tasks."""


def take_maps(backbone: Any, least: int, most: int) -> tuple[tuple[int, str], ...]:
    """Return the level and the name of each map of a backbone from level `least` to `most`, finest first.

    Level l has a stride of 2**l pixels. Levels above the backbone's coarsest map are left out. What the backbone has
    for other maps alone, or for a classifier, is removed from it in place, if it says how (`keep_maps`, `remove_head`).

    Raises:
        ValueError: `most` is below `least`, or the backbone has no map of level `least`.
    """
    names = {info.stride: name for name, info in backbone.feature_info.items()}
    given = {int(math.log2(stride)): name for stride, name in names.items() if math.log2(stride).is_integer()}
    levels = tuple(level for level in sorted(given) if least <= level <= most)
    if not least <= most or not levels or levels[0] != least:
        raise ValueError(
            f"min_level must be a level of which the backbone has a map, one of {sorted(given)}, and at most "
            f"max_level, got {least} and {most}"
        )
    if hasattr(backbone, "remove_head"):
        backbone.remove_head()
    if hasattr(backbone, "keep_maps"):
        backbone.keep_maps([given[level] for level in levels])
    return tuple((level, given[level]) for level in levels)


def norms_of_its_own(backbone: nnx.Module) -> list[tuple[str, BatchNorm]]:
    """Return the batch norms of a backbone by dotted path, without those in gates and pyramids."""
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(backbone)}
    others = [path for path, module in modules.items() if isinstance(module, _OTHERS)]
    inside = tuple(f"{path}." for path in others)
    return [
        (path, module)
        for path, module in modules.items()
        if isinstance(module, BatchNorm) and not path.startswith(inside)
    ]


def first_stages(backbone: Any, number: int) -> tuple[str, ...]:
    """Return the names of a backbone's stem, the stem's norm and its first stages, with what attends between these.

    Raises:
        ValueError: the backbone has no stem, or fewer stages.
    """
    has = lambda name: getattr(backbone, name, None) is not None  # noqa: E731
    stages = [f"stage{i + 1}" for i in range(number)]
    if not has("stem") or not all(map(has, stages)):
        raise ValueError(
            f"frozen_stages={number} needs a backbone with a stem and as many stages, which {type(backbone).__name__} "
            "is not"
        )
    between = [f"attention{i + 1}" for i in range(number)]
    norm = "stem_bn" if has("stem_bn") else "bn"  # MnasNet's bn is its last one
    return (*filter(has, ("stem", norm)), *stages, *filter(has, between))
