"""The whole attention-augmented convolution, ours against the same layer in PyTorch, and its two branches alone.

    python -m experiments.benchmarks.layer                 on the device that JAX finds
    python -m experiments.benchmarks.layer --device gpu    larger batches, bfloat16

AAConv2D(256, 256) at 14×14 and AAConv2D(128, 128) at 28×28: 8 heads, key depth 20 and value depth 3 and 1 per head,
3×3 convolution. PyTorch's layer is written from the paper's equations (`pytorch_layer.py`) and checked against ours
first; einsum and matmul, contiguous and channels_last are all timed and the fastest is quoted. The parts are the layer,
its convolution with both gradients, by input and by kernel alone, and its attention with the projections. Besides
implementation="auto", layer and attention run with the whole fold. All take turns; the median is kept.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D
from experiments.benchmarks import agreement, candidates, devices, figures, results, timing
from experiments.benchmarks.candidates import PASSES, Candidate

# The arguments by which each part has gradients: 0 is the input, 1 the parameters.
PARTS = {
    "layer": (0, 1),
    "convolution": (0, 1),
    "convolution by input": (0,),
    "convolution by kernel": (1,),
    "attention": (0, 1),
}
_FREE = 1 << 60  # these layers fit wherever a network does


@dataclass(frozen=True)
class Size:
    """A layer, and the batch that each kind of machine is given."""

    side: int
    features: int
    cpu_batch: int
    gpu_batch: int

    def build(self, dtype: str) -> AAConv2D:
        """Return our layer of this size."""
        shape = (self.side, self.side)
        return AAConv2D(self.features, self.features, 3, spatial_shape=shape, dtype=dtype, rngs=nnx.Rngs(0))


SIZES = (Size(14, 256, cpu_batch=16, gpu_batch=256), Size(28, 128, cpu_batch=4, gpu_batch=64))


def main() -> None:
    """Measure every size, part and variant, and store and draw the results."""
    arguments = parse()
    devices.use(arguments.device)
    on_cpu = jax.default_backend() == "cpu"
    dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    rows, summary = [], {}
    for size in SIZES:
        batch = arguments.batch or (size.cpu_batch if on_cpu else size.gpu_batch)
        measured = measure(size, batch, dtype, arguments)
        rows += measured
        summary[f"{size.side}x{size.side} {size.features}->{size.features} batch {batch}"] = summed = fastest(measured)
        print(f"{size.side}x{size.side}, batch {batch}, {dtype}\n{table(summed)}", flush=True)
    setting = {"dtype": dtype, "rounds": arguments.rounds, **candidates.settings(candidates.pytorch_device())}
    result = {**results.origin("layer", sys.argv[1:]), **setting, "summary": summary, "rows": rows}
    output = arguments.output or results.file_here("layer")
    results.store(result, output)
    figures.layer(result, output.with_suffix(".png"))


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--device", choices=devices.KINDS, default="auto")
    parser.add_argument("--batch", type=int, help="instead of each layer's own")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120, help="a layer takes no new round after so long")
    return parser.parse_args()


def measure(size: Size, batch: int, dtype: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each part, framework and variant."""
    x = np.random.default_rng(0).normal(size=(batch, size.side, size.side, size.features)).astype(np.float32)
    layer = size.build(dtype)
    found = {("aa_flax", "auto", part): each for part, each in ours(layer, jnp.asarray(x, dtype)).items()}
    folded = size.build(dtype)
    folded.implementation = "folded"
    parts = ours(folded, jnp.asarray(x, dtype), ("layer", "attention"))
    found |= {("aa_flax", "folded", part): each for part, each in parts.items()}
    if candidates.HAS_PYTORCH:
        agree(size, x[:1])
        found |= {("pytorch", *key): each for key, each in theirs(layer, x, dtype).items()}
    else:
        found |= {("pytorch", "-", part): candidates.without_pytorch() for part in PARTS}
    for (*_, part), each in found.items():
        if " by " in part:
            each.programs.pop("forward", None)  # it is that of the convolution
    programs = {(*key, name): program for key, each in found.items() for name, program in each.programs.items()}
    times = timing.take_turns(programs, rounds=arguments.rounds, seconds=arguments.seconds)
    rows = []
    for (framework, variant, part), candidate in found.items():
        medians = {name: timing.median(times[framework, variant, part, name]) for name in candidate.programs}
        where = {"map": f"{size.side}x{size.side}", "features": size.features, "batch": batch}
        rows.append(where | {"part": part, "framework": framework, "variant": variant} | candidate.row(medians))
    return rows


def ours(layer: AAConv2D, x: jax.Array, parts: Sequence[str] = tuple(PARTS)) -> dict[str, Candidate]:
    """Return our layer's parts, each as a function of its input and its own parameters."""
    graph, state = nnx.split(layer)
    params = nnx.to_pure_dict(state)
    conv = {"conv": params["conv"]}
    attention = {name: leaf for name, leaf in params.items() if name != "conv"}

    def merged(own: Any) -> AAConv2D:
        return nnx.merge(graph, {**params, **own}, copy=True)

    def convolve(x: jax.Array, own: Any) -> jax.Array:
        module = merged(own)
        assert module.conv is not None
        return module.conv(x)

    functions: dict[str, Any] = {
        "layer": (lambda x, own: merged(own)(x), params),
        "attention": (lambda x, own: (module := merged(own)).attend(module.attention_input(x)), attention),
    }
    return {
        part: candidates.jax_candidate(function, [x, own], free_bytes=_FREE, by=by)
        for part, by in PARTS.items()
        if part in parts
        for function, own in [functions.get(part, (convolve, conv))]
    }


def theirs(layer: AAConv2D, x: np.ndarray, dtype: str) -> dict[tuple[str, str], Candidate]:
    """Return PyTorch's parts by (variant, part)."""
    import torch

    torch.backends.cudnn.benchmark = True  # shapes are fixed
    found = {}
    for spelling in ("einsum", "matmul"):
        for layout in ("contiguous", "channels_last"):
            form = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
            device = candidates.pytorch_device()
            kind = getattr(torch, dtype)
            module = twin(layer, einsum=spelling == "einsum").to(device=device, dtype=kind, memory_format=form)
            leaf = torch.tensor(x.transpose(0, 3, 1, 2), device=device, dtype=kind).contiguous(memory_format=form)
            leaf.requires_grad_()
            functions = {"layer": module, "attention": module.attend}
            for part, by in PARTS.items():
                if spelling == "matmul" and part.startswith("convolution"):
                    continue  # both spellings have the same convolution
                function = functions.get(part, module.conv)
                own = {"layer": module.parameters(), "attention": _attention_parameters(module)}.get(
                    part, module.conv.parameters()
                )
                leaves = [leaf, *own]
                wanted = [*([0] if 0 in by else []), *(range(1, len(leaves)) if 1 in by else [])]
                name = layout if part.startswith("convolution") else f"{spelling} {layout}"
                found[name, part] = candidates.pytorch_candidate(
                    lambda x, *_, function=function: function(x), leaves, estimated_bytes=0, free_bytes=_FREE, by=wanted
                )
    return found


def twin(layer: AAConv2D, *, einsum: bool) -> Any:
    """Return the PyTorch layer with our layer's parameters."""
    from experiments.benchmarks.pytorch_layer import AAConv2d

    assert layer.rel_height is not None and layer.rel_width is not None
    map_shape = ((layer.rel_height.shape[0] + 1) // 2, (layer.rel_width.shape[0] + 1) // 2)
    sizes = (layer.in_features, layer.out_features, layer.key_depth, layer.value_depth, layer.num_heads)
    module = AAConv2d(*sizes, map_shape, einsum=einsum)
    agreement.copy_parameters(layer, module)
    return module


def agree(size: Size, x: np.ndarray) -> None:
    """Raise AssertionError unless both PyTorch spellings agree with our layer, in float32."""
    layer = size.build("float32")
    for einsum in (True, False):
        agreement.check_layer(layer, twin(layer, einsum=einsum).to(candidates.pytorch_device()), x)


def fastest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by part and pass our milliseconds, those of PyTorch's fastest variant, and how many times faster ours is.

    It also has how many times faster ours is than with the whole fold.
    """
    summary: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        summary[part] = {}
        for name in PASSES:
            here = [row for row in rows if row["part"] == part]
            own, whole_fold, other = (
                candidates.faster(
                    [r for r in here if r["framework"] == framework and variant in (None, r["variant"])], name
                )
                for framework, variant in (("aa_flax", "auto"), ("aa_flax", "folded"), ("pytorch", None))
            )
            if own is None:
                continue
            entry: dict[str, Any] = {"aa_flax_ms": own[f"{name}_ms"]}
            if whole_fold is not None:
                entry["times_faster_than_folded"] = round(whole_fold[f"{name}_ms"] / own[f"{name}_ms"], 2)
            if other is not None:
                entry |= {"pytorch_ms": other[f"{name}_ms"], "pytorch_variant": other["variant"]}
                entry["times_faster"] = round(other[f"{name}_ms"] / own[f"{name}_ms"], 2)
            summary[part][name] = entry
    return summary


def table(summary: dict[str, dict[str, Any]]) -> str:
    """Return the summary as text, with the branch that makes our layer slower where it is."""
    columns = f"{'PyTorch':>9}{'times':>7}{'to fold':>8}"
    lines = [f"{'':24}{'forward, ms':>12}{columns}{'+backward':>12}{columns}"]
    for part, passes in summary.items():
        line = f"  {part:<22}"
        for name in PASSES:
            entry = passes.get(name, {})
            other, ratio = entry.get("pytorch_ms", "-"), entry.get("times_faster", "-")
            fold = entry.get("times_faster_than_folded", "-")
            line += f"{entry.get('aa_flax_ms', '-'):>12}{other:>9}{ratio:>7}{fold:>8}"
        lines.append(line)
    return "\n".join([*lines, *verdicts(summary)])


def verdicts(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return for each pass in which our layer is slower how much longer than PyTorch's each of its branches takes."""
    said = []
    for name in PASSES:
        if summary["layer"][name].get("times_faster", 1) < 1:
            behind = [
                f"the {part} {'alone takes' if late > 0 else 'is ahead by'} {abs(late):.1f} ms{' longer' * (late > 0)}"
                for part in ("convolution", "attention")
                for late in [summary[part][name]["aa_flax_ms"] - summary[part][name]["pytorch_ms"]]
            ]
            said.append(f"  {name}: PyTorch's layer is faster; {'; '.join(behind)}")
    return said


def _attention_parameters(module: Any) -> list[Any]:
    return [parameter for name, parameter in module.named_parameters() if not name.startswith("conv.")]


if __name__ == "__main__":
    main()
