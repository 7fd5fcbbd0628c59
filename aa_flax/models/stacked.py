"""Equal blocks whose arrays are stacked and which run in one loop, so that the compiler sees a single block.

All arrays below a module that `STACKED` names have a leading axis that numbers the blocks. Code that treats each array
as one layer, such as the norms of LAMB, asks `lies_stacked`.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.drop_path import dropout_stream
from aa_flax.layers.mode import WithMode

STACKED = ("trunk.blocks",)
"""Ends of the dotted paths of modules whose arrays all have a leading depth axis."""


def lies_stacked(path: str) -> bool:
    """Return whether the array at a dotted path has a leading depth axis, so that each entry is one block's array."""
    return any(re.search(rf"(^|\.){re.escape(name)}\.", path) for name in STACKED)


class Trunk(WithMode):
    """Blocks of equal shape that follow each other, as a `jax.lax.scan` over their stacked arrays.

    `blocks` is one block whose Param and BatchStat have a leading depth axis. It cannot be called itself; `block(i)`
    returns a block that can.

    Args:
        make_block: builds one block from an `nnx.Rngs`. The block is called as `block(x, train=train, key=key,
            rate=rate)`, where key and rate are the random key and the rate of its drop path, or None for no drop path.
            The result has the shape and dtype of x. The block holds no variables but Param and BatchStat.
        drop_path_rates: the rate of each block; their number is the depth.
        rematerialize: keep only each block's input for the backward pass and compute the rest again.
        unroll: number of blocks in the loop's body; with `depth` there is no loop.
        rngs: source of the initial weights, which are those of as many blocks built one after another.

    Raises:
        ValueError: `unroll` below 1 or above the depth.
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], nnx.Module],
        *,
        drop_path_rates: Sequence[float],
        rematerialize: bool,
        unroll: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        self.drop_path_rates = tuple(drop_path_rates)
        self.depth = len(self.drop_path_rates)
        self.rematerialize = rematerialize
        if not 1 <= unroll <= self.depth:
            raise ValueError(f"unroll must lie in [1, {self.depth}], the number of blocks, got {unroll}")
        self.unroll = unroll
        self.blocks = _stacked(make_block, self.depth, rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
        keep: Sequence[int] = (),
    ) -> tuple[Float[Array, "b h w c"], dict[int, Float[Array, "b h w c"]]]:
        """Return the output of the last block, and the outputs of the blocks numbered in `keep`, counted from 0.

        In training, batch statistics are updated in place; with train=None all blocks have the mode of the trunk. Drop
        path draws one key from the stream "dropout" and splits it into one for each block.

        Raises:
            ValueError: `keep` has a number that no block has, or the same number twice; or drop path in training
                without `rngs`.
        """
        train = self.trains(train)
        kept = self._numbers(keep)
        graph, params, statistics = self._split()
        layers: dict[str, Any] = {"params": params, "statistics": statistics}
        if train and any(self.drop_path_rates):
            layers["key"] = jax.random.split(dropout_stream(rngs, "drop path")(), self.depth)
            layers["rate"] = jnp.asarray(self.drop_path_rates, jnp.float32)

        def run(x: Array, layer: dict[str, Any]) -> tuple[Array, Any]:
            block: Any = nnx.merge(graph, layer["params"], layer["statistics"], copy=True)
            y = block(x, train=train, key=layer.get("key"), rate=layer.get("rate"))
            return y, nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)) if train else {}

        if self.rematerialize:
            # The loop itself keeps the compiler from merging the two computations of a block.
            run = jax.checkpoint(run, prevent_cse=False)
        # `maps` has one entry for each kept block, and a last one for the outputs after all kept blocks. Each block
        # writes to the entry of the next kept block, which writes there last. So memory grows with the number of kept
        # blocks and not with the depth.
        layers["place"] = jnp.asarray(np.searchsorted(kept, np.arange(self.depth)), jnp.int32)

        def step(carry: tuple[Array, Array | None], layer: dict[str, Any]) -> tuple[tuple[Array, Array | None], Any]:
            x, maps = carry
            place = layer.pop("place")
            x, updated = run(x, layer)
            return (x, None if maps is None else jax.lax.dynamic_update_index_in_dim(maps, x, place, 0)), updated

        # Of `x`'s own zeros, which are split over the devices as it is, for meshes that check it.
        maps = jnp.broadcast_to(jnp.zeros_like(x)[None], (len(kept) + 1, *x.shape)) if kept else None
        (x, maps), updated = jax.lax.scan(step, (x, maps), layers, unroll=self.unroll)
        if train:
            nnx.update(self.blocks, updated)
        return x, {} if maps is None else {number: maps[i] for i, number in enumerate(kept)}

    def block(self, number: int) -> nnx.Module:
        """Return block `number`, counted from 0, as an ordinary module with arrays of its own.

        Raises:
            ValueError: there is no such block.
        """
        (number,) = self._numbers([number])
        graph, *states = self._split()
        return nnx.merge(graph, *jax.tree.map(lambda leaf: leaf[number], states))

    def _split(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        split: Any = nnx.split(self.blocks, nnx.Param, nnx.BatchStat)
        graph, params, statistics = split
        return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)

    def _numbers(self, blocks: Sequence[int]) -> list[int]:
        numbers = [operator.index(number) for number in blocks]
        if len(set(numbers)) < len(numbers) or any(not 0 <= number < self.depth for number in numbers):
            raise ValueError(
                f"blocks must be different numbers from 0 to {self.depth - 1}, counted from the input; got {numbers}"
            )
        return sorted(numbers)


def _stacked(make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return a block whose arrays are those of `depth` blocks, stacked along a new first axis."""

    def arrays(block: nnx.Module) -> dict[str, Any]:
        return nnx.to_pure_dict(nnx.state(block, (nnx.Param, nnx.BatchStat)))

    template = make_block(rngs)
    first = arrays(template)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(first)):
        # Most traces only need shapes, and `vmap` traces one block instead of `depth` blocks.
        keys = jax.random.split(rngs.params(), depth)
        together = jax.vmap(lambda key: arrays(make_block(nnx.Rngs(key))))(keys)
    else:
        together = jax.tree.map(lambda leaf: np.empty((depth, *leaf.shape), leaf.dtype), first)
        wholes = jax.tree.leaves(together)
        for i in range(depth):
            block = first if i == 0 else arrays(make_block(rngs))
            for whole, part in zip(wholes, jax.tree.leaves(block), strict=True):
                whole[i] = part
        together = jax.tree.map(jnp.asarray, together)
    nnx.update(template, together)
    return template
