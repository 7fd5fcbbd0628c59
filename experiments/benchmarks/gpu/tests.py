"""The tests that need a GPU: `pytest -m gpu`."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.settings import Setting

_ROOT = Path(__file__).parents[3]
_FOLDERS = ("tests/gpu", "tests/ops", "tests/layers")  # other tests import packages that such a machine lacks


def run(setting: Setting) -> None:
    """Run the tests and write how many passed, and which failed or were skipped."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the GPU is for the tests
    result = setting.record("extra.json", "tests")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        subprocess.run(
            [*command, *filter(lambda folder: (_ROOT / folder).exists(), _FOLDERS)], cwd=_ROOT, env=os.environ
        )
        result.put(**outcomes(report))


def outcomes(report: Path) -> dict[str, Any]:
    """Return the counts of a report of pytest, and a line for each test that failed or was skipped.

    Raises:
        ValueError: there is no report, because pytest did not finish.
    """
    if not report.exists():
        raise ValueError("pytest left no report")
    cases = list(ElementTree.parse(report).iter("testcase"))
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": []}
    for case in cases:
        label = f"{case.get('classname')}::{case.get('name')}"
        failures = [*case.iter("failure"), *case.iter("error")]
        skips = list(case.iter("skipped"))
        if failures:
            found["failed"].append(f"{label}: {' '.join((failures[0].get('message') or '').split())[:300]}")
        elif skips:
            found["skipped"].append(f"{label}: {skips[0].get('message')}")
        else:
            found["passed"] += 1
    return found
