"""Tests of the benchmarks: the order of turns, the networks' shapes, agreement with the versions for PyTorch."""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv2D
from aa_flax.models import list_models
from experiments.benchmarks import agreement, attention, branch, plans, quickstart_pairs, results, run, timing
from experiments.benchmarks.cases import CASES, HEADS


def test_the_interval_of_a_mean_difference():
    # Student's sleep data (1908), ten pairs: mean 1.58, 95 % from 0.70 to 2.46
    differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = quickstart_pairs.difference(differences)
    assert found["mean"] == pytest.approx(1.58)
    assert found["interval_95"] == pytest.approx([0.70, 2.46], abs=0.005)
    assert quickstart_pairs.difference([0.5]) == {"mean": 0.5, "interval_95": None}


def test_programs_take_turns_in_both_orders():
    ran = []
    programs = {name: lambda times, name=name: ran.append(name) for name in "ab"}
    times = timing.take_turns(programs, rounds=4, seconds=0)
    assert {name: len(measured) for name, measured in times.items()} == {"a": 3, "b": 3}  # at least three rounds
    assert "".join(ran[-12:]) == "aabbbbaaaabb"


def test_speedups_are_to_the_paper_and_to_the_whole_fold():
    times = {"paper": 12.0, "folded": 6.0, "folded_pieces": 2.0}
    where = {"network": "n", "map": "8x8", "value_depth_per_head": 1}
    rows = [{**where, "implementation": k, "forward_ms": v, "forward_backward_ms": 3 * v} for k, v in times.items()]
    expected = {"fastest": "folded_pieces", "over_paper": 6.0, "over_folded": 3.0}
    assert attention.speedups(rows) == {"n 8x8 dv1": {"forward": expected, "forward_backward": expected}}


def test_cases_are_the_networks_attention():
    by_shape = {(case.height, case.in_features): HEADS * case.value_depth for case in CASES}
    # AA-ResNet-50, kappa = 2 upsilon = 0.2
    for side, features, value_depth in ((14, 128, 8), (14, 256, 24), (7, 512, 48)):
        layer = AAConv2D(features, features, 3, spatial_shape=(side, side), rngs=nnx.Rngs(0))
        assert by_shape[side, features] == layer.value_depth == value_depth


def test_pytorch_versions_agree_with_the_reference():
    pytest.importorskip("torch")
    agreement.check_attention("cpu")


@pytest.mark.parametrize("einsum", [True, False])
def test_the_pytorch_layer_agrees_with_ours(einsum):
    pytest.importorskip("torch")
    from experiments.benchmarks.layer import twin

    layer = AAConv2D(11, 19, 3, num_heads=2, value_depth=6, spatial_shape=(5, 7), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 11)).astype(np.float32)
    agreement.check_layer(layer, twin(layer, einsum=einsum), x)
    assert layer(jnp.asarray(x)).shape == (2, 5, 7, 19)


@pytest.mark.thorough
def test_the_branch_is_the_same_by_every_implementation(rng):
    """Values and gradients agree: as one operation, by the kernel for GPUs, and step by step."""
    cotangent, inputs = branch.inputs(1, 3, 5, 8, "float32")
    arrays = [jnp.asarray(rng.normal(size=each.shape), each.dtype) for each in (cotangent, *inputs)]
    expected, *others = (
        jax.tree.leaves(jax.jit(branch.gradients(name))(*arrays))
        for name in ("reference", "folded", "pallas_tpu_interpret", "pallas_gpu_interpret")
    )
    for found in others:
        for ours, theirs in zip(found, expected, strict=True):
            scale = float(np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)  # float32 sums in another order


def flags_of_run(**changes):
    return argparse.Namespace(**{"device": "auto", "quick": False, "long": False, "list": False, **changes})


def test_run_knows_every_command():
    folder = Path(run.__file__).parent
    commands = {file.stem for file in folder.glob("*.py") if '__name__ == "__main__"' in file.read_text()}
    commands |= {file.parent.name for file in folder.glob("*/__main__.py")}
    names = [each.name for each in run.BENCHMARKS]
    assert {name.split()[0] for name in names} == commands - {"run"}
    assert {name.split()[1] for name in names if name.startswith("plans ")} == {*plans.TABLES}
    assert len({*names}) == len(names)


@pytest.mark.parametrize("libtpu", [True, False])
@pytest.mark.parametrize("plugin", [True, False])
def test_run_says_what_it_leaves_out(monkeypatch, capsys, libtpu, plugin):
    monkeypatch.setattr(run.tpu_compiler, "installed", lambda: libtpu)
    monkeypatch.setattr(run.gpu_compiler, "installed", lambda: plugin)
    monkeypatch.setattr(sys, "argv", ["run", "--list", "--quick"])
    run.main()
    would_run, left_out = capsys.readouterr().out.split("left out:")
    for each in run.BENCHMARKS:
        assert (f"\n{each.name}: " in would_run) != (f"\n  {each.name}: " in left_out)
    assert ("attention_v5e: python -m" in would_run) == libtpu and ("kernels_h100: python -m" in would_run) == plugin
    assert ("input_pipeline: needs photographs" in left_out) and ("attention: python -m" in would_run)


def test_whole_networks_are_compiled_when_asked(monkeypatch):
    monkeypatch.setattr(run.tpu_compiler, "installed", lambda: True)
    (trunk,) = (each for each in run.BENCHMARKS if each.name == "patchconvnet_trunk")
    assert run.reason(trunk, flags_of_run(long=True)) == ""
    assert "--long" in run.reason(trunk, flags_of_run())
    assert run.reason(trunk, flags_of_run(long=True, quick=True)) == "has no quick form"


@pytest.mark.parametrize("table", plans.TABLES.values(), ids=plans.TABLES)
def test_rows_of_plans_are_networks_and_configs_that_there_are(table):
    known = {*list_models()}
    for row in table.rows.values():
        exists = (
            (Path(plans.__file__).parents[2] / row.subject).is_file() if "/" in row.subject else row.subject in known
        )
        assert exists, row.subject
        assert row.baseline is None or table.rows[row.baseline].batch == row.batch


def test_a_row_planned_again_leaves_the_others(monkeypatch, tmp_path):
    """The other rows stay, and ratios are relative to the row that the table names."""
    asked = []

    def planned(row, topology):
        asked.append((row.subject, row.batch, topology))
        counts = dict.fromkeys((*plans.KEPT, "kernel_calls"), 10 * len(asked))
        return {**counts, "hbm_bytes": None}

    monkeypatch.setattr(plans, "planned", planned)
    file = tmp_path / "found.json"
    for more in ([], ["--only=resnet50"]):
        monkeypatch.setattr(sys, "argv", ["plans", "aw_v5e", f"--output={file}", *more])
        plans.main()
    assert asked == [("resnet50", 512, "v5e:2x2"), ("aw_resnet50", 512, "v5e:2x2"), ("resnet50", 512, "v5e:2x2")]
    found = json.loads(file.read_text())
    assert [row["flops"] for row in found["rows"].values()] == [30, 20]
    assert found["ratios"] == {"aw_resnet50": dict.fromkeys(("bytes_moved", "temp_bytes", "kernels"), 0.6667)}
    assert found["command"] == "python -m experiments.benchmarks.plans aw_v5e" and found["device"] == "TPU v5e"


def test_results_of_another_form_are_not_taken_for_rows(tmp_path):
    file = tmp_path / "found.json"
    assert plans.stored(file) == {}
    file.write_text('{"rows": [{"model": "resnet50"}]}')
    assert plans.stored(file) == {}


def test_where_counts_come_from():
    found = results.origin("attention", ["--maps", "7x7", "--output=a b"], "h100:1")
    assert found["command"] == "python -m experiments.benchmarks.attention --maps 7x7 '--output=a b'"
    assert (found["device"], found["topology"]) == ("NVIDIA H100 80GB HBM3", "h100:1") and "ran" in found
    assert "ran" not in results.origin("attention")
