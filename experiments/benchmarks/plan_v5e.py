"""What attention costs a whole training step on a TPU: bytes moved and memory, counted by its compiler without one.

    python experiments/benchmarks/plan_v5e.py                              (about 12 minutes on two CPU cores)

Plans AA-ResNet-50 beside ResNet-50, and AA-Wide-ResNet-28-10 beside its plain network, for four chips of a v5e with
`python -m aa_flax.plan`, and writes experiments/results/plan_v5e.json. Counts, not times. Needs libtpu.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import provenance  # noqa: E402
from experiments.benchmarks.planned import KEPT, planned  # noqa: E402

# The whole batch, over four chips.
PAIRS = {"resnet50": ("aa_resnet50", 1024), "wide_resnet28_10": ("aa_wide_resnet28_10", 512)}
RATIOS = ("bytes_moved", "hbm_bytes", "temp_bytes")


def main() -> None:
    """Plan each pair in a process of its own, and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=_ROOT / "experiments" / "results" / "plan_v5e.json")
    path = parser.parse_args().output
    rows = []
    for baseline, (model, batch) in PAIRS.items():
        found = planned("v5e:2x2", model, batch, [f"--baseline={baseline}"])
        rows.append(row(baseline, found))
        print(model, rows[-1]["ratios"], flush=True)
    result = {**provenance("python experiments/benchmarks/plan_v5e.py"), "topology": "v5e:2x2", "rows": rows}
    result["device"] = "TPU v5e, compiled for on a CPU"
    result["versions"]["libtpu"] = found["versions"]["libtpu"]
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


def row(baseline: str, found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a plan with a baseline, as its command prints it."""
    own, other = ({name: each[name] for name in KEPT} for each in (found, found["baseline"]))
    ratios = {name: round(found["ratios"][name], 4) for name in RATIOS}
    where = {"model": found["model"], "batch": found["batch"]}
    return {**where, **own, "baseline": {"model": baseline, **other}, "ratios": ratios}


if __name__ == "__main__":
    main()
