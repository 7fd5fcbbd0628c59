"""Run every benchmark that this machine can run, one after the other, each in a process of its own.

    python -m experiments.benchmarks.run                  on a CPU an hour or more, with nothing else running
    python -m experiments.benchmarks.run --device gpu     with a GPU's batches, bfloat16
    python -m experiments.benchmarks.run --long           whole networks too, compiled for machines that are not present
    python -m experiments.benchmarks.run --quick          what can be tried in minutes; nothing is stored
    python -m experiments.benchmarks.run --list           names only: what would run, what is left out and why

Writes JSON and figures to experiments/results/. The benchmarks left out are named at the end, with the reason: what
they need that this machine does not have, or how they are started by themselves.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from aa_flax.analysis import gpu_compiler, tpu_compiler
from experiments.benchmarks.devices import KINDS

_ROOT = Path(__file__).parents[2]


class Benchmark(NamedTuple):
    """A command of this folder, and what it needs to run.

    Attributes:
        name: the name of the module, followed by arguments if it has several tables.
        quick: arguments with which it takes about a minute, None if there are none.
        device: whether it has the flag --device.
        compiler: what it compiles for, "tpu" or "gpu", if it only compiles.
        long: whether it compiles whole networks, for tens of minutes.
        alone: why it is started by itself; "" if this command starts it.
    """

    name: str
    quick: tuple[str, ...] | None = None
    device: bool = False
    compiler: str = ""
    long: bool = False
    alone: str = ""


BENCHMARKS = (
    Benchmark("attention", ("--maps", "7x7", "--rounds=3", "--batch=1"), device=True),
    Benchmark("layer", ("--rounds=3", "--batch=1"), device=True),
    Benchmark(
        "train_step",
        ("--rounds=3", "--batch=1", "--image_size=64", "--models", "resnet50", "aa_resnet50"),
        device=True,
    ),
    Benchmark("attention_memory", ("--sides", "8", "14"), device=True),
    Benchmark("gated_convolution", ("--rounds=1", "--batch=1", "--seconds=1")),
    Benchmark("depthwise", ("--rounds=1",)),
    Benchmark("roi_align", ("--rounds=1",)),
    Benchmark("loop", ("--steps=3", "--rounds=1")),
    Benchmark("attention_v5e", ("--sides", "8", "14"), compiler="tpu"),
    Benchmark("gated_convolution_v5e", ("--first=1",), compiler="tpu"),
    Benchmark("patchconvnet_trunk", compiler="tpu", long=True),
    Benchmark("plans v5e", compiler="tpu", long=True),
    Benchmark("plans aw_v5e", compiler="tpu", long=True),
    Benchmark("plans scale_v5e", compiler="tpu", long=True),
    Benchmark("plans detection_v5e", compiler="tpu", long=True),
    Benchmark("plans regions_v5e", compiler="tpu", long=True),
    Benchmark("roi_align_counts v5e", compiler="tpu", long=True),
    Benchmark("attention_h100", ("--maps", "4x4"), compiler="gpu"),
    Benchmark("kernels_h100", ("--first=1",), compiler="gpu"),
    Benchmark("plans h100", compiler="gpu", long=True),
    Benchmark("plans detection_h100", compiler="gpu", long=True),
    Benchmark("plans regions_h100", compiler="gpu", long=True),
    Benchmark("roi_align_counts h100", compiler="gpu", long=True),
    Benchmark("detection_input", ("--rounds=1", "--repeats=1")),
    Benchmark("input_pipeline", alone="needs photographs: --source_dir=FOLDER"),
    Benchmark("quickstart_pairs", alone="compares with another checkout: --against=CHECKOUT"),
    Benchmark("gpu", alone="is a set of parts of its own, for a machine with a GPU: --out=FOLDER"),
)


def main() -> None:
    """Run what can be run; exit with status 1 and the names of the benchmarks that failed, if any did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=KINDS, default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    left_out = {each.name: why for each in BENCHMARKS if (why := reason(each, arguments))}
    chosen = [each for each in BENCHMARKS if each.name not in left_out]
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for each in chosen:
            command = command_of(each, arguments, Path(scratch))
            print(f"\n{each.name}: {shlex.join(['python', *command[1:]])}", flush=True)
            if not arguments.list and subprocess.run(command, cwd=_ROOT, env=environment(arguments.device)).returncode:
                failed.append(each.name)
    print("\nleft out:")
    for name, why in left_out.items():
        print(f"  {name}: {why}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def reason(each: Benchmark, arguments: argparse.Namespace) -> str:
    """Return why a benchmark is left out, "" if it is not."""
    if each.alone:
        return each.alone
    if each.compiler == "tpu" and not tpu_compiler.installed():
        return "needs libtpu, the TPU's compiler: pip install 'aa_flax[plan]'"
    if each.compiler == "gpu" and not gpu_compiler.installed():
        return "needs JAX's plugin for CUDA, a GPU's compiler: pip install 'aa_flax[plan_gpu]'"
    if arguments.quick and each.quick is None:
        return "has no quick form"
    if each.long and not arguments.long:
        return "compiles whole networks for tens of minutes: --long"
    return ""


def command_of(each: Benchmark, arguments: argparse.Namespace, scratch: Path) -> list[str]:
    """Return the command; with --quick it writes to `scratch`."""
    name, *table = each.name.split()
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *table]
    if each.device:
        command.append(f"--device={arguments.device}")
    if arguments.quick:
        command += [*(each.quick or ()), f"--output={scratch / name}.json"]
    return command


def environment(device: str) -> dict[str, str]:
    """Return the variables of a benchmark's process."""
    return {**os.environ, **({"JAX_PLATFORMS": "cpu"} if device == "cpu" else {})}


if __name__ == "__main__":
    main()
