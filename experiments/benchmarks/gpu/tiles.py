"""Times of the kernel with the library's and other tiles, warps, stages and groups of heads: forward, with gradients.

`aa_flax/ops/pallas_gpu/shape.py` makes the choice; this shows the times of other choices on this card.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.ops.pallas_gpu.call import attention
from aa_flax.ops.pallas_gpu.shape import Shape
from experiments.benchmarks import timing
from experiments.benchmarks.candidates import PASSES, reason
from experiments.benchmarks.cases import HEADS, KEY_DEPTH
from experiments.benchmarks.gpu.settings import Setting

# Height, width, value depth per head, batch.
_MAPS = ((32, 32, 2, 128), (14, 14, 3, 256), (7, 7, 6, 256))
_TINY = ((4, 4, 8, 1),)


@dataclass(frozen=True)
class Launch(Shape):
    """A shape with launch settings of its own; None is the library's choice."""

    tiles: tuple[int, int] | None = None  # queries and keys
    num_warps: int | None = None
    num_stages: int | None = None
    heads: int | None = None  # that a program of the backward pass computes in turn

    @property
    def query_tile(self) -> int:
        """The queries of a tile."""
        return self.tiles[0] if self.tiles else super().query_tile

    @property
    def key_tile(self) -> int:
        """The keys of a tile."""
        return self.tiles[1] if self.tiles else super().key_tile

    @property
    def warps(self) -> int:
        """The warps of a program."""
        return self.num_warps or super().warps

    def stages(self, *, backward: bool) -> int:
        """Return the number of pipeline stages: steps whose loads are in flight."""
        return self.num_stages or super().stages(backward=backward)

    def group(self, batch: int) -> int:
        """Return the heads of a program of the backward pass."""
        return self.heads or super().group(batch)

    def described(self, batch: int) -> dict[str, Any]:
        """Return the launch settings as columns of a result."""
        tiles = [self.query_tile, self.key_tile]
        stages = [self.stages(backward=backward) for backward in (False, True)]
        return {"tiles": tiles, "warps": self.warps, "stages": stages, "group": self.group(batch)}


def launches(height: int, width: int, value_depth: int, batch: int, interpret: bool) -> Iterator[Launch]:
    """Yield the library's launch, then launches that differ from it in one setting, or in tiles and warps."""
    first = Launch(
        height=height,
        width=width,
        num_heads=HEADS,
        key_depth=KEY_DEPTH,
        value_depth=value_depth,
        scale=KEY_DEPTH**-0.5,
        positions=True,
        dtype=jnp.dtype("bfloat16"),
        interpret=interpret,
    )
    yield first
    other = functools.partial(dataclasses.replace, first)
    yield from (other(num_warps=warps) for warps in (1, 2, 4) if warps != first.warps)
    yield from (other(num_stages=stages) for stages in (1, 2, 3))
    yield from (other(heads=heads) for heads in (1, 2, 4, 8) if heads != first.group(batch))
    for pair in itertools.product(*([size for size in (16, 32) if size < 2 * length] for length in (width, height))):
        if pair != (first.query_tile, first.key_tile):
            warps = max(1, pair[0] * pair[1] // 512)
            yield from (other(tiles=pair, num_warps=each) for each in {warps, min(4, 2 * warps)})


def run(setting: Setting) -> None:
    """Write a row for each launch, map by map."""
    result = setting.record("extra.json", "tiles", dtype="bfloat16", rows=[])
    for height, width, value_depth, batch in setting.pick(_MAPS, _TINY):
        if setting.left() < setting.pick(15.0, 0.0):
            result.add("not_measured", f"{height}x{width}: no time was left")
            continue
        for row in measure(height, width, value_depth, batch, setting):
            result.add("rows", row)
            print(row, flush=True)


def measure(height: int, width: int, value_depth: int, batch: int, setting: Setting) -> list[dict[str, Any]]:
    """Return a row for each launch at one shape."""
    rng = np.random.default_rng(0)
    depths = HEADS * (2 * KEY_DEPTH + value_depth)
    sizes = [(batch, height * width, depths), (2 * height - 1, KEY_DEPTH), (2 * width - 1, KEY_DEPTH)]
    qkv, *tables = (jnp.asarray(rng.normal(size=size), "bfloat16") for size in sizes)
    every = list(launches(height, width, value_depth, batch, setting.rehearse))
    every = setting.pick(every, every[:2])

    def forward(launch: Launch, qkv: Any, tables: Any) -> Any:
        return attention(launch, qkv, tables)

    def both(launch: Launch, qkv: Any, tables: Any) -> Any:
        output, pullback = jax.vjp(functools.partial(attention, launch), qkv, tables)
        return output, pullback(output)

    def compiled(launch: Launch) -> Any:
        try:
            return {
                name: timing.jax_program(
                    jax.jit(functools.partial(function, launch)).lower(qkv, tuple(tables)).compile(), qkv, tuple(tables)
                )
                for name, function in zip(PASSES, (forward, both), strict=True)
            }
        except Exception as error:  # a launch that the compiler refuses
            return reason(error)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(compiled, every))
    programs = {
        (index, name): program
        for index, each in enumerate(found)
        if isinstance(each, dict)
        for name, program in each.items()
    }
    times = timing.take_turns(programs, rounds=5, seconds=max(2.0, setting.left() / 4))
    where = {"map": f"{height}x{width}", "value_depth_per_head": value_depth, "batch": batch}
    rows = []
    for index, (launch, each) in enumerate(zip(every, found, strict=True)):
        row = {**where, **launch.described(batch), "chosen": index == 0}
        if isinstance(each, str):
            rows.append(row | {"not_measured": each})
        else:
            rows.append(row | {f"{name}_ms": timing.median(times[index, name]) for name in PASSES})
    return rows
