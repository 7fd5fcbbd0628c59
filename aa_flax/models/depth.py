"""The depth of the parameters of a network, by which layer-wise decay scales their learning rates.

A backbone names its groups in its property `depth_groups`: the dotted paths of its modules, and the number of the group
of each, counted from the image. The stem is group 0 and each block has a group of its own. Modules that are not named,
such as poolings, classifiers, pyramids and heads, are the last group, one after the last block.
"""

from collections.abc import Mapping
from typing import Any

DepthGroups = Mapping[str, int | range]
"""Number of the group by dotted path of a module; a range has the group of each block of those that lie stacked."""


def depth_groups(network: Any) -> DepthGroups:
    """Return the groups of a network: its own, or those of its backbone.

    Raises:
        ValueError: neither names any.
    """
    if hasattr(network, "depth_groups"):
        return network.depth_groups
    if hasattr(network, "backbone"):
        return {f"backbone.{path}": group for path, group in depth_groups(network.backbone).items()}
    raise ValueError(f"{type(network).__name__} does not name the depth of its blocks (depth_groups)")


def number_of_groups(groups: DepthGroups) -> int:
    """Return how many groups the named modules make, the last group, of everything else, not counted."""
    return 1 + max(group if isinstance(group, int) else group[-1] for group in groups.values())


def group_of(path: str, groups: DepthGroups) -> int | range:
    """Return the group of the parameter at a dotted path; a range for a parameter of stacked blocks."""
    for prefix, group in groups.items():
        if path.startswith(f"{prefix}."):
            return group
    return number_of_groups(groups)


def blocks_of_stages(stages: Mapping[str, int]) -> dict[str, int]:
    """Return the groups of the blocks `STAGE.block1`, `STAGE.block2` ... of stages that follow a stem and each other.

    Args:
        stages: the number of blocks of each stage by name, in their order.
    """
    names = [f"{stage}.block{i + 1}" for stage, blocks in stages.items() for i in range(blocks)]
    return {name: i + 1 for i, name in enumerate(names)}
