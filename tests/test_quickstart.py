"""Test of the quickstart as a newcomer runs it: accuracy, time and memory of the whole command."""

import json
import os
import resource
import subprocess
import time

import pytest

from aa_flax.analysis.provenance import ROOT, provenance


@pytest.mark.slow
def test_quickstart(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA", "TPU"))}
    environment["TFDS_DATA_DIR"] = str(tmp_path / "tfds")
    command = ["bash", "experiments/quickstart.sh", f"--workdir={tmp_path}/run"]
    subprocess.run(["bash", "-c", "source experiments/environment.sh"], cwd=ROOT, env=environment, check=True)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    wall_seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["accuracy"] >= 0.87
    assert wall_seconds <= 300
    memory_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # the largest process started here
    assert memory_gb < 4
    del result["workdir"]
    record = {**provenance("bash experiments/quickstart.sh"), **result}
    record |= {"wall_seconds": round(wall_seconds, 1), "peak_memory_gb": round(memory_gb, 2)}
    (ROOT / "experiments" / "results" / "quickstart.json").write_text(json.dumps(record, indent=1) + "\n")
