"""`python -m aa_flax.plan` in a process of its own, and what is kept of it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
KEPT = (
    "bytes_moved",
    "hbm_bytes",
    "temp_bytes",
    "params_bytes",
    "optimizer_bytes",
    "collective_bytes",
    "flops",
    "fits",
)


def planned(topology: str, model: str, batch: int, options: Sequence[str] = ()) -> dict[str, Any]:
    """The object that the command prints for a training step in bfloat16.

    Args:
        topology: "v5e:2x2", "h100:1", ...
        model: name of a network, or a config file of `experiments`.
        batch: images of all chips together.
        options: more arguments.
    """
    subject = f"--config={model}" if model.endswith(".py") else f"--model={model}"
    command = [sys.executable, "-m", "aa_flax.plan", f"--topology={topology}", subject, f"--batch={batch}", "--json"]
    done = subprocess.run([*command, *options], cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)
