"""Keeps a stored result whose sources have changed without changing what was measured, and writes down why.

    python experiments/benchmarks/confirm.py --because="..." experiments/results/plan_v5e.json ...

For changes after which the measured programs are the same, line for line, as those that JAX lowered before: compare
them first (`jax.jit(...).lower(...).as_text()` in both checkouts, at the same path). The reason, the date and the hash
of the sources as they are go into the file beside the old ones.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import source_hash  # noqa: E402


def main() -> None:
    """Add an entry to "confirmed" of each file whose sources have changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--because", required=True, help="how it was found that the measured programs are the same")
    arguments = parser.parse_args()
    for file in arguments.files:
        result = json.loads(file.read_text())
        sources = result["sources"]
        now = source_hash(sources["files"])
        if now == sources["sha256"]:
            print(f"{file}: of the sources as they are")
            continue
        entry = {"date": datetime.date.today().isoformat(), "before": sources["sha256"], "because": arguments.because}
        result.setdefault("confirmed", []).append(entry)
        sources["sha256"] = now
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{file}: confirmed")


if __name__ == "__main__":
    main()
