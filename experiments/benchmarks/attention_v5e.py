"""Memory and traffic of the attention branch on a TPU v5e, counted by its compiler without one.

    python experiments/benchmarks/attention_v5e.py          (about ten minutes on two CPU cores; needs libtpu)

The branch is projection to queries, keys and values, relative attention, projection of the heads, in bfloat16. Two
tables: forward at three layers of the paper's networks; and forward with gradients on maps from 8×8 to 80×80, batch 8,
as ResNet-50's stage 3 has it (256 channels, 8 heads, value depth 3), where memory grows with h·w or with its square.
Nothing runs, so nothing is timed. Writes JSON and a figure to experiments/results/.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import package_version, provenance  # noqa: E402
from aa_flax.ops import attention_branch, relative_attention_2d  # noqa: E402
from experiments.benchmarks import figures, v5e  # noqa: E402
from experiments.benchmarks.cases import HEADS, KEY_DEPTH  # noqa: E402

RESULTS = _ROOT / "experiments" / "results"
IMPLEMENTATIONS = ("paper", "folded", "pallas_tpu")
LAYERS = ((256, 14, 256, 24), (64, 28, 128, 8), (32, 32, 160, 16))  # batch, side, channels, total value depth
SIDES = (8, 14, 20, 28, 32, 40, 48, 56, 64, 80)
BATCH, CHANNELS, VALUE_DEPTH = 8, 256, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    mesh = v5e.mesh()
    print(f"{'batch, map, channels':>25}{'':<12}{'GB moved':>14}{'of HBM':>14}{'temporary MB':>14}{'all in HBM':>14}")
    layers = [row(mesh, name, *layer, gradients=False) for layer in LAYERS for name in IMPLEMENTATIONS]
    scaling = [
        row(mesh, name, BATCH, side, CHANNELS, VALUE_DEPTH, gradients=True)
        for side in arguments.sides
        for name in IMPLEMENTATIONS
    ]
    found = provenance("python experiments/benchmarks/attention_v5e.py")
    found["versions"]["libtpu"] = package_version("libtpu")
    setting = {
        "device": "one TPU v5e chip",
        "ran": "nothing: compiled by libtpu on a CPU",
        "dtype": "bfloat16",
        "heads": HEADS,
        "key_depth_per_head": KEY_DEPTH,
        "batch": BATCH,
    }
    result = {**found, **setting, "layers_forward": layers, "scaling": scaling}
    output = arguments.output or RESULTS / f"attention_v5e_jax{jax.__version__}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    figures.memory(result, output.with_suffix(".png"))
    print(f"written to {output}")


def row(mesh: Any, name: str, batch: int, side: int, channels: int, value_depth: int, *, gradients: bool) -> dict:
    """What the compiler counts for one implementation and shape."""
    depths = 2 * HEADS * KEY_DEPTH + value_depth
    shapes = [(batch, side, side, channels), (channels, depths), (value_depth, value_depth)]
    shapes += [(2 * side - 1, KEY_DEPTH)] * 2
    function: Callable[..., Any] = functools.partial(fused if name == "pallas_tpu" else separate, name)
    if gradients:
        function, shapes = with_gradients(function), [*shapes[:1], (batch, side, side, value_depth), *shapes[1:]]
    where = {"implementation": name, "batch": batch, "side": side, "places": side**2}
    where |= {"channels": channels, "value_depth": value_depth, "gradients": gradients}
    counts = v5e.count(function, shapes, jnp.bfloat16, mesh)
    columns = {"bytes_moved": 1e9, "hbm_bytes": 1e9, "temporary_bytes": 1e6, "temporary_bytes_all_in_hbm": 1e6}
    shown = "".join(f"{counts[key] / unit:>14.3f}" if key in counts else f"{'-':>14}" for key, unit in columns.items())
    remark = "" if counts["fits"] else "   does not fit into the chip's memory"
    print(f"{batch:>8} {side:>4}x{side:<4} {channels:>4}  {name:<12}{shown}{remark}", flush=True)
    return where | counts


def fused(name: str, x: jax.Array, qkv: jax.Array, out: jax.Array, *tables: jax.Array) -> jax.Array:
    """The branch as one operation."""
    return attention_branch(x, qkv, None, out, None, *tables, num_heads=HEADS, implementation=name)


def separate(name: str, x: jax.Array, qkv: jax.Array, out: jax.Array, *tables: jax.Array) -> jax.Array:
    """The branch as `AAConv2D` wires it where projections are not fused."""
    b, h, w, _ = x.shape
    key_depth = HEADS * KEY_DEPTH
    parts = jnp.split(x @ qkv, [key_depth, 2 * key_depth], -1)
    query, key, value = (part.reshape(b, h, w, HEADS, -1) for part in parts)
    heads = relative_attention_2d(query, key, value, *tables, implementation=name)
    return heads.reshape(b, h, w, -1) @ out


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Of the input, a cotangent and the parameters: the output and every gradient."""

    def run(x: jax.Array, cotangent: jax.Array, *params: jax.Array) -> Any:
        output, pullback = jax.vjp(function, x, *params)
        return output, pullback(cotangent)

    return run


if __name__ == "__main__":
    main()
