"""Every benchmark that fits the machine at hand, one after the other, each in a process of its own.

    python experiments/benchmarks/run.py                  on a CPU about half an hour, with nothing else running
    python experiments/benchmarks/run.py --device gpu     batches of a GPU, bfloat16
    python experiments/benchmarks/run.py --quick          every part once, minutes; nothing is stored

Writes JSON and figures to experiments/results/. The counts for a TPU v5e are made where libtpu is installed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parents[1]))  # the checkout need not be installed

from aa_flax.analysis.tpu_compiler import installed  # noqa: E402

_QUICK = {
    "attention": ["--maps", "7x7", "--rounds=3", "--batch=1"],
    "layer": ["--rounds=3", "--batch=1"],
    "train_step": ["--rounds=3", "--batch=1", "--image_size=64", "--models", "resnet50", "aa_resnet50"],
    "attention_memory": ["--sides", "8", "14"],
    "attention_v5e": ["--sides", "8", "14"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu", "tpu"], default="auto")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    environment = {**os.environ}
    if arguments.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in _QUICK:
            command = [sys.executable, str(_HERE / f"{name}.py")]
            if name == "attention_v5e":
                if not installed():
                    print("\nattention_v5e: not counted, libtpu is not installed")
                    continue
            else:
                command.append(f"--device={arguments.device}")
            if arguments.quick:
                command += [*_QUICK[name], f"--output={Path(scratch) / name}.json"]
            print(f"\n{name}: {' '.join(command)}", flush=True)
            if subprocess.run(command, env=environment).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
