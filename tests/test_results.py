"""Stored measurements must be of the sources as they are."""

import json
from pathlib import Path

import pytest

from aa_flax.analysis.provenance import ROOT, source_hash

RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: Path(file).name)
def test_results_were_measured_on_the_current_sources(file):
    result = json.loads(file.read_text())
    sources = result["sources"]
    assert sources["sha256"] == source_hash(sources["files"]), f"measure again: {result['command']}"
    for field in ("date", "device", "versions", "cores"):
        assert result[field], field


def test_the_results_that_the_readme_speaks_of_are_there():
    names = {file.name for file in RESULTS}
    assert {"quickstart.json", "imagenette.json"} <= names
    assert {"attention_cpu_jax0.10.2.json", "attention_cpu_jax0.12.0.1.json", "layer_cpu_jax0.10.2.json"} <= names
    assert {"attention_v5e_jax0.10.2.json", "plan_v5e.json"} <= names
    assert "PLACEHOLDER" not in (ROOT / "README.md").read_text()
