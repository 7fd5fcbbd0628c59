"""Memory and traffic of the attention branch on a TPU v5e, counted by its compiler without such a chip.

    python -m experiments.benchmarks.attention_v5e          (about ten minutes on two CPU cores; needs libtpu)

The branch is projection to queries, keys and values, relative attention, projection of the heads, in bfloat16. There
are two tables: forward at three layers of the paper's networks; and forward with gradients on maps from 8×8 to 80×80,
batch 8, with the sizes of ResNet-50's stage 3 (256 channels, 8 heads, value depth 3), where memory grows with h·w or
with its square.
Nothing runs, so nothing is timed. Writes experiments/results/attention_v5e_jax*.json and a figure.
"""

from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from experiments.benchmarks import branch, figures, results
from experiments.benchmarks.branch import BATCH, CHANNELS, SIDES, VALUE_DEPTH
from experiments.benchmarks.cases import HEADS, KEY_DEPTH

TARGET = "v5e:1x1"
IMPLEMENTATIONS = ("paper", "folded", "pallas_tpu")
LAYERS = ((256, 14, 256, 24), (64, 28, 128, 8), (32, 32, 160, 16))  # batch, side, channels, total value depth
SHOWN = {"bytes_moved": 1e9, "hbm_bytes": 1e9, "temporary_bytes": 1e6, "temporary_bytes_all_in_hbm": 1e6}


def main() -> None:
    """Count every shape and implementation, and store and draw the counts."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    arguments = parser.parse_args()
    print(f"{'batch, map, channels':>25}{'':<12}{'GB moved':>14}{'of HBM':>14}{'temporary MB':>14}{'all in HBM':>14}")
    layers = [row(name, *layer, gradients=False) for layer in LAYERS for name in IMPLEMENTATIONS]
    scaling = [
        row(name, BATCH, side, CHANNELS, VALUE_DEPTH, gradients=True)
        for side in arguments.sides
        for name in IMPLEMENTATIONS
    ]
    setting = {"dtype": "bfloat16", "heads": HEADS, "key_depth_per_head": KEY_DEPTH, "batch": BATCH}
    found = results.origin("attention_v5e", target=TARGET)
    result = {**found, **setting, "layers_forward": layers, "scaling": scaling}
    output = arguments.output or results.RESULTS / f"attention_v5e_jax{jax.__version__}.json"
    results.store(result, output)
    figures.memory(result, output.with_suffix(".png"))


def row(name: str, batch: int, side: int, channels: int, value_depth: int, *, gradients: bool) -> dict[str, Any]:
    """Return what the compiler counts for one implementation and shape."""
    cotangent, inputs = branch.inputs(batch, side, channels, value_depth, jnp.bfloat16)
    where = {"implementation": name, "batch": batch, "side": side, "places": side**2}
    where |= {"channels": channels, "value_depth": value_depth, "gradients": gradients}
    if gradients:
        counts = counted(branch.gradients(name), cotangent, *inputs)
    else:
        counts = counted(branch.program(name), *inputs)
    shown = "".join(f"{counts[key] / unit:>14.3f}" if key in counts else f"{'-':>14}" for key, unit in SHOWN.items())
    remark = "" if counts["fits"] else "   does not fit into the chip's memory"
    print(f"{batch:>8} {side:>4}x{side:<4} {channels:>4}  {name:<12}{shown}{remark}", flush=True)
    return where | counts


def counted(function: Any, *inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Return the counts of one program.

    temporary_bytes: HBM besides arguments and results; with gradients it includes what the forward pass keeps. The
        compiler places arrays in the chip's 128 MiB of VMEM instead while they fit.
    temporary_bytes_all_in_hbm: the same when the compiler may not use VMEM for this.
    fits: whether HBM holds the program; if not, only `temporary_bytes` is given, from the compiler's message.
    bytes_moved: the compiler's count for its own operations; for custom calls operands and results as they lie in
        memory. Traffic to and from VMEM is included.
    hbm_bytes: the part of these that is read from and written to HBM, summed over the program's text.
    custom_call_bytes: operands and results of custom calls, as they lie in memory.
    custom_call_estimate: the estimate of the kernels' author, which the compiler uses unchanged.
    flops: the compiler's count, and for kernels their author's estimate.
    """
    found = count(TARGET, function, *inputs)
    if not found.fits:
        return {"fits": False, "temporary_bytes": found.temporary_bytes}
    in_hbm = found.lowered.compile(compiler_options={"xla_msa_enable": "false"})
    counts = found.counts
    return {
        "fits": True,
        "temporary_bytes": found.temporary_bytes,
        "temporary_bytes_all_in_hbm": in_hbm.memory_analysis().temp_size_in_bytes,
        "bytes_moved": counts.bytes_moved,
        "hbm_bytes": counts.hbm_bytes,
        "custom_call_bytes": sum(call.bytes for call in counts.kernels),
        "custom_call_estimate": sum(call.estimated_bytes for call in counts.kernels),
        "flops": counts.flops,
    }


if __name__ == "__main__":
    main()
