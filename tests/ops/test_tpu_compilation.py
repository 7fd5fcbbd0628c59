"""Tests of the kernel with the TPU's own compiler, where libtpu is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aa_flax.analysis.tpu_compiler import installed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not installed(), reason="libtpu is not installed")
NAMES = ("batch", "h", "w", "heads", "dk", "dv", "channels")


def results(*cases, script="compile_for_tpu.py"):
    """Return the compiler's figures for each case."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_NUM_CPU_DEVICES": "1"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), json.dumps(cases)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def case(*sizes, **options):
    return {**dict(zip(NAMES, sizes, strict=True)), **options}


@pytest.mark.thorough
def test_forward_and_backward_compile_at_any_size():
    cases = [
        case(2, 5, 11, 2, 7, 1, 13),
        case(2, 13, 17, 4, 20, 6, 24),
        case(2, 7, 7, 8, 20, 8, 64),
        case(2, 33, 35, 1, 4, 2, 8),
        case(2, 14, 13, 2, 20, 3, 24, positions=False),
        case(2, 5, 11, 2, 7, 1, 13, dtype="float32"),
        case(2, 33, 35, 1, 4, 2, 8, dtype="float32"),
    ]
    for found in results(*cases):
        assert found["kernels"] == 2


@pytest.mark.thorough
def test_a_program_does_not_hold_its_anchors_padded():
    (found,) = results(script="anchors_for_tpu.py")
    assert found["code"] < found["padded"] / 4


@pytest.mark.thorough
def test_split_over_four_chips_nothing_is_gathered():
    found, alone = results(case(16, 14, 14, 8, 20, 3, 64, sharded=True), case(4, 14, 14, 8, 20, 3, 64))
    assert found["gathers"] == 0 and found["reduces"] >= 1
    assert found["moved"] <= 1.1 * alone["moved"]


@pytest.mark.thorough
def test_the_branch_moves_little_and_large_maps_fit():
    # Key depth 160, value depths 24, 8, 16: the paper's algorithm moves 3.02, 12.60 and 13.84 GB.
    branches = [case(256, 14, 14, 8, 20, 3, 256), case(64, 28, 28, 8, 20, 1, 128), case(32, 32, 32, 8, 20, 2, 160)]
    *forward, large = results(*[{**branch, "gradients": False} for branch in branches], case(8, 64, 64, 8, 20, 3, 128))
    assert all(found["moved"] <= 0.30e9 for found in forward)
    assert large["temporary"] <= 0.1e9  # 64x64, forward and backward; one map of logits alone would be 4.3 GB
