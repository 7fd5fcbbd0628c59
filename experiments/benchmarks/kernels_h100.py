"""Counts of our attention kernels on an H100, from the programs that XLA compiles for one; no GPU is needed.

    python -m experiments.benchmarks.kernels_h100      (ten minutes on two CPU cores; needs `aa_flax[plan_gpu]`)

The maps are those of the paper's networks and of detectors, with gradients. Counted of each kernel are the bytes of its
operands and results, its instructions in all and in its longest loop (of PTX, before the assembler joins some), and,
where NVIDIA's assembler `ptxas` is on the PATH, registers and bytes spilled. Nothing runs, so nothing is timed. Writes
JSON to experiments/results/kernels_h100.json; attention_h100.py beside this file compares implementations.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax

from aa_flax.analysis import count
from aa_flax.json_values import to_json
from aa_flax.ops import packed_attention
from experiments.benchmarks import results
from experiments.benchmarks.candidates import with_gradients
from experiments.benchmarks.cases import CASES, HEADS, KEY_DEPTH

TARGET, ARCHITECTURE = "h100:1", "sm_90a"
# batch, height, width, depth per head of keys and values, dtype
SHAPES = (
    *((case.gpu_batch, case.height, case.width, KEY_DEPTH, case.value_depth, "bfloat16") for case in CASES),
    (256, 14, 14, 20, 8, "bfloat16"),  # kappa = upsilon = 0.25
    (64, 56, 56, 20, 1, "bfloat16"),
    (256, 14, 14, 20, 3, "float32"),
    (128, 32, 32, 20, 2, "float32"),
    (8, 32, 32, 128, 128, "bfloat16"),  # the largest depth that the kernels accept
    (8, 32, 32, 64, 64, "float32"),
)


def main() -> None:
    """Count every shape, and store the counts."""
    parser = results.flags(__doc__, "kernels_h100.json")
    parser.add_argument("--first", type=int, default=len(SHAPES), metavar="N", help="only the first N shapes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aa_flax-ptx-") as dump:
        # XLA reads these flags when the compiler first starts.
        options = [os.environ.get("XLA_FLAGS", ""), f"--xla_dump_to={dump}", "--xla_dump_emitter_re=.*"]
        os.environ["XLA_FLAGS"] = " ".join(filter(None, options))
        rows = [row(Path(dump), *shape) for shape in SHAPES[: arguments.first]]
        found = results.origin("kernels_h100", target=TARGET)
    results.store({**found, "heads": HEADS, "assembler": _assembler(), "rows": rows}, arguments.output)


def row(
    dump: Path, batch: int, height: int, width: int, key_depth: int, value_depth: int, dtype: str
) -> dict[str, Any]:
    """Return what the program of attention with its gradients moves at one shape, and each of its two kernels."""
    shapes = [
        (batch, height, width, HEADS * value_depth),
        (batch, height, width, HEADS * (2 * key_depth + value_depth)),
        (2 * height - 1, key_depth),
        (2 * width - 1, key_depth),
    ]
    options: dict[str, Any] = dict(num_heads=HEADS, value_depth=HEADS * value_depth, implementation="pallas_gpu")
    attend = functools.partial(packed_attention, **options)
    for file in dump.iterdir():
        file.unlink()
    counted = count(TARGET, with_gradients(attend, range(3)), *(jax.ShapeDtypeStruct(s, dtype) for s in shapes))
    moved = {launch.name: launch.bytes for launch in counted.counts.launches}
    where = dict(batch=batch, height=height, width=width, key_depth=key_depth, value_depth=value_depth, dtype=dtype)
    kernels = [{**kernel, "bytes_moved": moved[kernel["name"]]} for kernel in _kernels(dump)]
    whole = {"bytes_moved": counted.counts.bytes_moved, "temporary_bytes": counted.temporary_bytes}
    found = {**where, **whole, "kernels": kernels}
    print(to_json(found), flush=True)
    return found


def _kernels(dump: Path) -> list[dict[str, Any]]:
    """Return what is known of each of our kernels that the last compilation wrote."""
    found = []
    for file in sorted(dump.glob("*.ptx")):
        text = file.read_text()
        if name := re.search(r"\.entry (relative_attention_\w+)", text):
            instructions = len(re.findall(_INSTRUCTION, text, re.MULTILINE))
            known = {"name": name[1], "instructions": instructions, "longest_loop": max(_loops(text), default=0)}
            found.append({**known, **_assembled(file)})
    return sorted(found, key=lambda kernel: kernel["name"])


_INSTRUCTION = r"^\s+(?:@!?%p\d+\s+)?[a-z][\w.]*\s"


def _loops(text: str) -> list[int]:
    """Return the instructions of each innermost loop: from a label to the branch back to it."""
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
