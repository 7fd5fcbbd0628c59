"""Layer-wise decay of the learning rate: blocks learn the more slowly the nearer they are to the image.

It is that of ELECTRA (Clark et al., 2020), of BEiT and ConvNeXt, and of timm's `layer_decay`.
"""

from typing import Any

import jax
import numpy as np
import optax

from aa_flax.models.depth import DepthGroups, group_of, number_of_groups


def decay_by_depth(
    optimizer: optax.GradientTransformation, groups: DepthGroups, decay: float
) -> optax.GradientTransformation:
    """Return the optimiser, changed to multiply the whole step of each parameter, weight decay included, by its scale.

    See `depth_scales`. As the scale stays the same, this equals another learning rate for each parameter.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(updates, state, params)
        scales = depth_scales(updates, groups, decay)
        return jax.tree.map(lambda u, scale: u * scale.astype(u.dtype), updates, scales), state

    return optax.GradientTransformation(optimizer.init, update)


def depth_scales(params: Any, groups: DepthGroups, decay: float) -> Any:
    """Return a tree of what multiplies the learning rate of each parameter, decay ** (G - g) in group g.

    G is the last group, that of the head, whose rate stays: with n blocks the last block has decay, the first one
    decay ** n and the stem decay ** (n + 1). Blocks that lie stacked have their scales along the first axis.
    """
    last = number_of_groups(groups)

    def scale(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        group = group_of(".".join(str(part.key) for part in path), groups)
        if isinstance(group, int):
            return np.asarray(decay ** (last - group))
        return np.reshape([decay ** (last - each) for each in group], (-1,) + (1,) * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(scale, params)
