"""Time and memory of every implementation of relative attention at the shapes of the paper's networks.

    python -m experiments.benchmarks.attention                 on the device that JAX finds
    python -m experiments.benchmarks.attention --device gpu    batches of a GPU, bfloat16, with fractions of its peak
    python -m experiments.benchmarks.attention --maps 28x28 --rounds 3 --output quick.json

8 heads of key depth 20; shapes are in `cases.py`. Ours: "paper", "folded", "folded_pieces", the kernels of the device,
and "reference" where the map is small. Where PyTorch is installed: the paper's algorithm in two spellings, SDPA with a
float bias and FlexAttention, checked against our reference before they are timed. All take turns; the median is kept.
Temporary memory is what JAX's compiler reports; PyTorch's is measured on a GPU only. Implementations that cannot run on
the device, or do not fit into its memory, are left out with the reason.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.ops import relative_attention_2d
from experiments.benchmarks import agreement, candidates, devices, figures, results, timing
from experiments.benchmarks.candidates import PASSES, Candidate
from experiments.benchmarks.cases import CASES, HEADS, KEY_DEPTH, Case

LARGEST_FOR_REFERENCE = 256  # h*w
KERNELS = {"gpu": ["cudnn", "pallas_gpu"], "tpu": ["pallas_tpu"]}
OURS = ("folded", "folded_pieces", "cudnn", "pallas_gpu", "pallas_tpu")
PYTORCH_COPIES = 8  # copies of the float32 logits that a pass of PyTorch may hold at once


def main() -> None:
    """Measure every shape and implementation, and store and draw the results."""
    arguments = parse()
    devices.use(arguments.device)
    if candidates.HAS_PYTORCH:
        agreement.check_attention(candidates.pytorch_device())
    rows: list[dict[str, Any]] = []
    print(
        f"{'map':>7} {'dv':>3} {'batch':>5}  {'implementation':<18} {'forward ms':>11} {'+backward':>11} {'temp MB':>9}"
    )
    for case in CASES:
        if arguments.maps and case.map not in arguments.maps:
            continue
        measured = measure(case, arguments)
        rows += measured
        for row in measured:
            print_row(row)
        for name, found in next(iter(speedups(measured).values())).items():
            print(f"{'':19}{name}: {found}", flush=True)
    setting = {
        "dtype": dtype_of(arguments),
        "heads": HEADS,
        "key_depth_per_head": KEY_DEPTH,
        "rounds": arguments.rounds,
        **candidates.settings(candidates.pytorch_device()),
    }
    result = {
        **results.origin("attention", sys.argv[1:]),
        **setting,
        "speedups": speedups(rows),
        "rows": rows,
    }
    output = arguments.output or results.file_here("attention")
    results.store(result, output)
    figures.attention(result, output.with_suffix(".png"))


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--device", choices=devices.KINDS, default="auto")
    parser.add_argument("--maps", nargs="+", metavar="HxW", choices=sorted({case.map for case in CASES}))
    parser.add_argument("--batch", type=int, help="instead of each shape's own")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="a shape takes no new round after so long")
    return parser.parse_args()


def dtype_of(arguments: argparse.Namespace) -> str:
    """Return the dtype that was asked for, or the default of the device."""
    return arguments.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


def measure(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each implementation at one shape."""
    on_cpu = jax.default_backend() == "cpu"
    batch = arguments.batch or (case.cpu_batch if on_cpu else case.gpu_batch)
    dtype = dtype_of(arguments)
    free = int(0.6 * devices.free_bytes())
    arrays = inputs(case, batch)
    found = {**ours(case, arrays, dtype, free), **theirs(case, arrays, dtype, free)}
    times = timing.take_turns(candidates.programs_of(found), rounds=arguments.rounds, seconds=arguments.seconds)
    rows = []
    for name, candidate in found.items():
        medians = {key: timing.median(times[name, key]) for key in candidate.programs}
        row = {
            "network": case.network,
            "map": case.map,
            "batch": batch,
            "value_depth_per_head": case.value_depth,
            "implementation": name,
            "rounds": max((len(times[name, key]) for key in candidate.programs), default=0),
            **candidate.row(medians),
        }
        rows.append(row | fractions(case, batch, dtype, medians))
    return rows


def inputs(case: Case, batch: int) -> list[np.ndarray]:
    """Return random query, key, value and both tables, with heads after positions."""
    rng = np.random.default_rng(0)
    per_head = (batch, case.height, case.width, HEADS)
    shapes: list[tuple[int, ...]] = [(*per_head, KEY_DEPTH), (*per_head, KEY_DEPTH), (*per_head, case.value_depth)]
    shapes += [(2 * case.height - 1, KEY_DEPTH), (2 * case.width - 1, KEY_DEPTH)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def ours(case: Case, arrays: list[np.ndarray], dtype: str, free: int) -> dict[str, Candidate]:
    """Return the implementations of `aa_flax.ops` for this device."""
    names = ["reference"] if case.height * case.width <= LARGEST_FOR_REFERENCE else []
    names += ["paper", "folded", "folded_pieces", *KERNELS.get(jax.default_backend(), [])]
    operands = [jnp.asarray(array, dtype) for array in arrays]
    found = {}
    for name in names:

        def forward(*operands: jax.Array, name: str = name) -> jax.Array:
            return relative_attention_2d(*operands, implementation=name)

        found[name] = candidates.jax_candidate(forward, operands, free_bytes=free)
    return found


def theirs(case: Case, arrays: list[np.ndarray], dtype: str, free: int) -> dict[str, Candidate]:
    """Return PyTorch's implementations, in the layout that suits them."""
    if not candidates.HAS_PYTORCH:
        return {"pytorch": candidates.without_pytorch()}
    from experiments.benchmarks import pytorch_attention

    leaves = agreement.pytorch_leaves(arrays, candidates.pytorch_device(), dtype)
    batch, places = arrays[0].shape[0], case.height * case.width
    logits = 4 * batch * HEADS * places**2
    return {
        name: candidates.pytorch_candidate(
            implementation, leaves, estimated_bytes=PYTORCH_COPIES * logits, free_bytes=free
        )
        for name, implementation in pytorch_attention.IMPLEMENTATIONS.items()
    }


def fractions(case: Case, batch: int, dtype: str, medians: dict[str, float]) -> dict[str, float]:
    """Return fractions of the device's peaks, {} where these are not known or the dtype is not that of the peaks.

    The operations are those that attention needs, three times as many with gradients, whatever an implementation
    executes. The bytes are those of arguments and results, once, and three times with gradients.
    """
    peak = devices.peak()
    if peak is None or dtype != "bfloat16":
        return {}
    shares = {}
    for name, times_more in zip(PASSES, (1, 3), strict=True):
        if name in medians:
            seconds = medians[name] / 1e3
            shares[f"{name}_fraction_of_peak_flops"] = times_more * case.flops(batch) / seconds / peak.flops
            shares[f"{name}_fraction_of_peak_bandwidth"] = (
                times_more * case.bytes(batch, itemsize=2) / seconds / peak.bandwidth
            )
    return {name: round(share, 4) for name, share in shares.items()}


def speedups(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by shape and pass how many times faster our fastest is than the paper's algorithm, ours and PyTorch's.

    It is compared with the whole fold too, which is one of ours.
    """
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        table.setdefault(f"{row['network']} {row['map']} dv{row['value_depth_per_head']}", {})
    for shape, entry in table.items():
        here = [row for row in rows if f"{row['network']} {row['map']} dv{row['value_depth_per_head']}" == shape]
        for name in PASSES:
            groups = {
                "ours": [row for row in here if row["implementation"] in OURS],
                "paper": [row for row in here if row["implementation"] == "paper"],
                "folded": [row for row in here if row["implementation"] == "folded"],
                "pytorch": [row for row in here if row["implementation"] in ("pytorch_einsum", "pytorch_matmul")],
            }
            best = {key: candidates.faster(group, name) for key, group in groups.items()}
            if best["ours"] is None:
                continue
            entry[name] = {"fastest": best["ours"]["implementation"]}
            for key in ("paper", "folded", "pytorch"):
                if (other := best[key]) is not None:
                    entry[name][f"over_{key}"] = round(other[f"{name}_ms"] / best["ours"][f"{name}_ms"], 2)
    return table


def print_row(row: dict[str, Any]) -> None:
    """Print one line of the table, and one for each pass that was not measured, with the reason."""
    shown = [f"{row[f'{name}_ms']:.2f}" if row[f"{name}_ms"] is not None else "-" for name in PASSES]
    memory = row["forward_backward_temporary_bytes"]
    shown.append(f"{memory / 1e6:.1f}" if memory is not None else "-")
    place = f"{row['map']:>7} {row['value_depth_per_head']:>3} {row['batch']:>5}"
    print(f"{place}  {row['implementation']:<18} {shown[0]:>11} {shown[1]:>11} {shown[2]:>9}")
    for name, reason in row.get("not_measured", {}).items():
        print(f"{'':19}{name} not measured: {reason}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
