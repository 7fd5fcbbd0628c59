"""Parts of a network that training leaves as they are, by dotted prefix: "stem", "stage1", "stage2.block1".

A frozen parameter gets no gradient and no update, weight decay included; a frozen batch norm keeps and uses its
running statistics. The compiler drops the backward pass through what lies before the first part that learns.

With `config.model.frozen_epochs` the parts wait so long and learn then. Their batch norms take statistics of batches
from then on, and `aa_flax.training.optimizers.in_two_groups` says how their optimiser begins.
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from flax import nnx

from aa_flax.layers.norm import BatchNorm


def freeze_statistics(model: nnx.Module, frozen: Sequence[str]) -> None:
    """Make the batch norms of the frozen parts use their running statistics, in place; `frozen` as `check_parts`."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm) and _within(".".join(map(str, path)), frozen):
            module.frozen = True


def check_parts(model: nnx.Module, frozen: Sequence[str]) -> None:
    """Check the names of parts that are to be frozen.

    Raises:
        ValueError: a prefix names no part of the network, or no parameter is left to train.
    """
    modules = {".".join(map(str, path)) for path, _ in nnx.iter_modules(model)}
    for prefix in frozen:
        if prefix not in modules:
            parts = ", ".join(sorted(path for path in modules if path and "." not in path))
            raise ValueError(f"frozen names no part of the network: {prefix!r}; its parts: {parts}")
    learning = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    if all(_within(".".join(map(str, path)), frozen) for path in learning):
        raise ValueError(f"frozen names the whole network, so that nothing would learn: {', '.join(frozen)}")


def stop_gradients(params: Any, frozen: Sequence[str]) -> Any:
    """Return the parameters, those of the frozen parts as constants to differentiation."""
    if not frozen:
        return params
    return jax.tree.map(lambda p, constant: jax.lax.stop_gradient(p) if constant else p, params, mask(params, frozen))


def leave_frozen(optimizer: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
    """Return the optimiser, changed to leave the parameters of the frozen parts as they are."""
    if not frozen:
        return optimizer
    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), lambda params: mask(params, frozen)))


def mask(params: Any, frozen: Sequence[str]) -> Any:
    """Return a tree of bools that says which parameters lie in the frozen parts."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _within(".".join(str(part.key) for part in path), frozen), params
    )


def _within(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)
