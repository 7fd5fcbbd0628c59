"""Test of the gated convolution with the TPU's own compiler, where libtpu is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aa_flax.analysis.tpu_compiler import installed

ROOT = Path(__file__).parents[2]


@pytest.mark.thorough
@pytest.mark.skipif(not installed(), reason="libtpu is not installed")
def test_kernels_of_samples_stay_out_of_memory():
    """On four chips with their own samples nothing is gathered, and memory never holds a kernel for each sample."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("gated_for_tpu.py"))],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    kernels = 16 * 9 * 128 * 128 * 2  # bytes of 16 samples' kernels in bfloat16
    assert found["weighted"]["temporary"] - found["plain"]["temporary"] < kernels
    assert found["weighted"]["moved"] < 2.5 * found["plain"]["moved"]  # transposing the fold would move more
    assert found["weighted"]["gathers"] == found["weighted"]["permutations"] == 0
