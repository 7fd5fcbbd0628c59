"""What our attention kernels are on an H100, counted from the programs that XLA makes for one; none is needed.

    python -m experiments.benchmarks.kernels_h100      (ten minutes on two CPU cores; needs `aa_flax[plan_gpu]`)

For maps of the paper's networks and of detectors, with gradients. Of each kernel: bytes of its operands and results,
instructions in all and in its longest loop (of PTX, before the assembler joins some), and, where NVIDIA's assembler
`ptxas` is on the PATH, registers and bytes spilled. Nothing runs, so nothing is timed. Writes JSON to
experiments/results/; attention_h100.py beside this file compares implementations.
"""

import argparse
import functools
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
from aa_flax.ops import packed_attention  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "kernels_h100.json"
TARGET, ARCHITECTURE = "h100:1", "sm_90a"
HEADS = 8
# batch, height, width, depth per head of keys and values, dtype
CASES = (
    (256, 14, 14, 20, 3, "bfloat16"),
    (256, 7, 7, 20, 6, "bfloat16"),
    (128, 32, 32, 20, 2, "bfloat16"),
    (128, 16, 16, 20, 4, "bfloat16"),
    (128, 8, 8, 20, 8, "bfloat16"),
    (256, 14, 14, 20, 8, "bfloat16"),  # kappa = upsilon = 0.25
    (256, 28, 28, 20, 1, "bfloat16"),
    (64, 56, 56, 20, 1, "bfloat16"),
    (8, 40, 40, 20, 3, "bfloat16"),
    (8, 80, 80, 20, 3, "bfloat16"),
    (256, 14, 14, 20, 3, "float32"),
    (128, 32, 32, 20, 2, "float32"),
    (8, 32, 32, 128, 128, "bfloat16"),  # the deepest that the kernels take
    (8, 32, 32, 64, 64, "float32"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--first", type=int, default=len(CASES), metavar="N", help="only the first N shapes")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **provenance("python -m experiments.benchmarks.kernels_h100"),
        "device": "one NVIDIA H100 80GB",
        "ran": "nothing: compiled by XLA on a CPU and counted",
        "heads": HEADS,
        "assembler": _assembler(),
    }
    result["rows"] = [row(*case) for case in CASES[: arguments.first]]
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.output}")


def row(batch: int, height: int, width: int, key_depth: int, value_depth: int, dtype: str) -> dict[str, Any]:
    """One shape: what the program of attention with its gradients moves, and each of its two kernels."""
    shapes = [
        (batch, height, width, HEADS * value_depth),
        (batch, height, width, HEADS * (2 * key_depth + value_depth)),
        (2 * height - 1, key_depth),
        (2 * width - 1, key_depth),
    ]

    def both(slope: Any, *arrays: Any) -> Any:
        options: dict[str, Any] = dict(num_heads=HEADS, value_depth=HEADS * value_depth, implementation="pallas_gpu")
        output, pullback = jax.vjp(functools.partial(packed_attention, **options), *arrays)
        return output, pullback(slope)

    for file in Path(_DUMP.name).iterdir():
        file.unlink()
    compiled = compile_on(TARGET, both, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
    counts = count_program(compiled, Program(compiled.as_text()), devices=1, per_chip=1)
    moved = {launch.name: launch.bytes for launch in counts.launches}
    where = dict(batch=batch, height=height, width=width, key_depth=key_depth, value_depth=value_depth, dtype=dtype)
    kernels = [{**kernel, "bytes_moved": moved[kernel["name"]]} for kernel in _kernels()]
    memory = compiled.memory_analysis().temp_size_in_bytes
    found = {**where, "bytes_moved": counts.bytes_moved, "temporary_bytes": memory, "kernels": kernels}
    print(json.dumps(found), flush=True)
    return found


def _kernels() -> list[dict[str, Any]]:
    """What is known of each of our kernels that the last compilation wrote."""
    found = []
    for file in sorted(Path(_DUMP.name).glob("*.ptx")):
        text = file.read_text()
        if name := re.search(r"\.entry (relative_attention_\w+)", text):
            instructions = len(re.findall(_INSTRUCTION, text, re.MULTILINE))
            known = {"name": name[1], "instructions": instructions, "longest_loop": max(_loops(text), default=0)}
            found.append({**known, **_assembled(file)})
    return sorted(found, key=lambda kernel: kernel["name"])


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
