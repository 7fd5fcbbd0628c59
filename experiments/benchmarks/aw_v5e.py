"""What AW-convolutions cost a training step on a TPU: bytes moved and memory, counted by its compiler without one.

    python experiments/benchmarks/aw_v5e.py                 (ten minutes or more of processor time; needs libtpu)

Plans AW-ResNet-50 beside ResNet-50, 128 images a chip, bfloat16, for four chips of a v5e with `python -m aa_flax.plan`,
and writes experiments/results/aw_v5e.json. With --planned=FILE it takes what that command has written (--json) instead
of running it. Counts, not times; layer by layer: `gated_convolution_v5e.py`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import provenance  # noqa: E402
from experiments.benchmarks.plan_v5e import row  # noqa: E402

MODEL, BASELINE, BATCH = "aw_resnet50", "resnet50", 512


def main() -> None:
    """Plan, or take the plan, and store its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planned", type=Path, help="output of python -m aa_flax.plan ... --json")
    parser.add_argument("--output", type=Path, default=_ROOT / "experiments" / "results" / "aw_v5e.json")
    arguments = parser.parse_args()
    options = ["--topology=v5e:2x2", f"--batch={BATCH}", f"--model={MODEL}", f"--baseline={BASELINE}", "--json"]
    if arguments.planned:
        text = arguments.planned.read_text()
    else:
        command = [sys.executable, "-m", "aa_flax.plan", *options]
        text = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    planned = json.loads(text)
    assert (planned["model"], planned["batch"], planned["topology"]) == (MODEL, BATCH, "v5e:2x2"), planned["command"]
    result = provenance("python experiments/benchmarks/aw_v5e.py")
    result["device"] = "TPU v5e, compiled for on a CPU"
    result["versions"]["libtpu"] = planned["versions"]["libtpu"]
    result |= {"topology": "v5e:2x2", "rows": [row(BASELINE, planned)]}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['rows'][0]['ratios']}, written to {arguments.output}")


if __name__ == "__main__":
    main()
