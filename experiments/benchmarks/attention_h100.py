"""What attention costs on an H100, counted from the programs that XLA makes for one; none is needed.

    python -m experiments.benchmarks.attention_h100      (half an hour on two CPU cores; needs `aa_flax[plan_gpu]`)

For maps of the paper's networks and of detectors, forward and with gradients: bytes of all operands and results,
temporary memory, kernels. Of our own kernels also what NVIDIA's assembler `ptxas` says, where it is on the PATH:
registers, bytes spilled, and instructions in all and in the longest loop (of PTX, before the assembler joins some).
Nothing runs, so nothing is timed. Writes experiments/results/attention_h100.json.

    --kernels-only           our kernels alone
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_DUMP = tempfile.TemporaryDirectory(prefix="aa_flax-ptx-")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={_DUMP.name} --xla_dump_emitter_re=.*".strip()
)

import jax  # noqa: E402

from aa_flax.analysis.compiling import compile_on  # noqa: E402
from aa_flax.analysis.counts import count_program  # noqa: E402
from aa_flax.analysis.hlo import Program  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.ops import packed_attention, relative_attention_2d  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "attention_h100.json"
TARGET, ARCHITECTURE = "h100:1", "sm_90a"
HEADS = 8
# batch, height, width, depth per head of keys and values, dtype, whether the others are counted too
CASES = (
    (256, 14, 14, 20, 3, "bfloat16", True),
    (256, 7, 7, 20, 6, "bfloat16", True),
    (128, 32, 32, 20, 2, "bfloat16", True),
    (128, 16, 16, 20, 4, "bfloat16", False),
    (128, 8, 8, 20, 8, "bfloat16", False),
    (256, 14, 14, 20, 8, "bfloat16", False),  # kappa = upsilon = 0.25
    (256, 28, 28, 20, 1, "bfloat16", False),
    (64, 56, 56, 20, 1, "bfloat16", False),
    (8, 40, 40, 20, 3, "bfloat16", False),
    (8, 80, 80, 20, 3, "bfloat16", False),
    (256, 14, 14, 20, 3, "float32", False),
    (128, 32, 32, 20, 2, "float32", False),
    (8, 32, 32, 128, 128, "bfloat16", False),  # the deepest that the kernels take
    (8, 32, 32, 64, 64, "float32", False),
)
OTHERS = ("paper", "folded", "cudnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels-only", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    result = {
        **provenance("python -m experiments.benchmarks.attention_h100"),
        "device": "one NVIDIA H100 80GB",
        "ran": "nothing: compiled by XLA on a CPU and counted",
        "heads": HEADS,
        "assembler": _assembler(),
        "rows": rows,
    }
    for batch, height, width, key_depth, value_depth, dtype, others in CASES:
        for name in ("pallas_gpu", *(OTHERS if others and not arguments.kernels_only else ())):
            rows.append(row(name, batch, height, width, (key_depth, value_depth), dtype))
            print(json.dumps(rows[-1]), flush=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.output}")


def row(name: str, batch: int, height: int, width: int, depth: tuple[int, int], dtype: str) -> dict[str, Any]:
    """Counts of one implementation, forward and with gradients, and of our kernels if it is ours."""
    key_depth, value_depth = depth
    where: dict[str, Any] = dict(implementation=name, batch=batch, height=height, width=width, dtype=dtype)
    where |= dict(key_depth=key_depth, value_depth=value_depth)
    depths = (key_depth, key_depth, value_depth)
    packed = name == "pallas_gpu"
    one = (batch, height, width)
    shapes: list[tuple[int, ...]]
    shapes = [(*one, HEADS * sum(depths))] if packed else [(*one, HEADS, depth) for depth in depths]
    shapes += [(2 * length - 1, key_depth) for length in (height, width)]
    slope: tuple[int, ...] = (*one, HEADS * value_depth) if packed else (*one, HEADS, value_depth)

    def forward(*arrays: Any) -> Any:
        if packed:
            return packed_attention(*arrays, num_heads=HEADS, value_depth=HEADS * value_depth, implementation=name)
        return relative_attention_2d(*arrays, implementation=name)

    def both(slope: Any, *arrays: Any) -> Any:
        output, pullback = jax.vjp(forward, *arrays)
        return output, pullback(slope)

    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in (slope, *shapes)]
    counts = {"forward": _counted(forward, *arrays[1:])}
    for file in Path(_DUMP.name).iterdir():
        file.unlink()
    counts["with_gradients"] = _counted(both, *arrays)
    return {**where, **counts, **({"kernels": _kernels()} if packed else {})}


def _counted(function: Any, *arguments: Any) -> dict[str, Any]:
    compiled = compile_on(TARGET, function, *arguments)
    counts = count_program(compiled, Program(compiled.as_text()), devices=1, per_chip=1)
    memory = compiled.memory_analysis()
    return {"bytes_moved": counts.bytes_moved, "temp_bytes": memory.temp_size_in_bytes, "kernels": counts.calls}


def _kernels() -> list[dict[str, Any]]:
    """What is known of each of our kernels that the last compilation wrote."""
    found = []
    for file in sorted(Path(_DUMP.name).glob("*.ptx")):
        text = file.read_text()
        name = re.search(r"\.entry (relative_attention_\w+)", text)
        if name is None:
            continue
        loops = _loops(text)
        instructions = len(re.findall(_INSTRUCTION, text, re.MULTILINE))
        known = {"name": name[1], "instructions": instructions, "longest_loop": max(loops, default=0)}
        found.append({**known, **_assembled(file)})
    return found


_INSTRUCTION = r"^\s+(?:@!?%p\d+\s+)?[a-z][\w.]*\s"


def _loops(text: str) -> list[int]:
    """Instructions of each loop that has no other in it: from a label to the branch back to it."""
    found, label, count = [], "", 0
    for line in text.splitlines():
        if start := re.match(r"(\$\w+):", line):
            label, count = start[1], 0
        elif re.match(_INSTRUCTION, line):
            count += 1
            if label and re.search(rf"\bbra(\.uni)?\s+{re.escape(label)};", line):
                found.append(count)
    return found


def _assembled(file: Path) -> dict[str, int | None]:
    if shutil.which("ptxas") is None:
        return {"registers": None, "spilled_bytes": None}
    command = ["ptxas", "-v", f"-arch={ARCHITECTURE}", str(file), "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert registers and spilled, said
    return {"registers": int(registers[1]), "spilled_bytes": int(spilled[1])}


def _assembler() -> str | None:
    if shutil.which("ptxas") is None:
        return None
    said = subprocess.run(["ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release \S+ (V\S+)", said)
    return f"ptxas {version[1]}" if version else "ptxas"


if __name__ == "__main__":
    main()
