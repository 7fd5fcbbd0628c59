"""Tests of the parts of the GPU benchmark: tolerances, verdicts, traces, packages."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.analysis.provenance import commit
from experiments.benchmarks.candidates import is_refusal
from experiments.benchmarks.gpu import __main__ as commands
from experiments.benchmarks.gpu import exact, kernels, packages, profiled, tests
from experiments.benchmarks.gpu.checks import KEY_DEPTH, Check, Verdicts, checks, judged
from experiments.benchmarks.gpu.settings import Setting
from experiments.benchmarks.gpu.tiles import launches

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))
import attention_oracle as oracle

ROOT = Path(__file__).parents[2]


def test_the_reference_is_that_of_the_definition(rng):
    arrays = [np.asarray(array, np.float64) for array in oracle.inputs(rng, 2, 3, 5, 2, 7, 3)]
    cotangent = rng.normal(size=arrays[2].shape)
    value, gradients = oracle.attend(*arrays, 0.3, cotangent)
    found = exact.attend([*arrays, cotangent], 0.3)
    for ours, theirs in zip(found, [value, *gradients], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)  # float64 in another order


def test_an_error_is_of_the_largest_entry():
    theirs = [np.array([0.0, -4.0])] * 6
    ours = [np.array([0.01, -4.0])] * 5 + [np.array([0.0, 4.0])]
    found = exact.errors(ours, theirs)
    assert list(found) == list(exact.NAMES)
    assert found["value"] == 0.0025 and found["rel_width"] == 2.0


def test_checks_cover_both_types_and_both_precisions():
    found = checks([(5, 7, 3)], batch=2, heads=4)
    assert {(check.dtype, check.precision): check.tolerance for check in found} == {
        ("bfloat16", "default"): 3e-2,
        ("float32", "highest"): 1e-5,
        ("float32", "default"): 3e-3,
    }
    assert found[0].dtype == "bfloat16"
    first, second = found[0].inputs(), found[0].inputs()
    for array, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(array, again)
        np.testing.assert_array_equal(array, np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32))
    assert [array.shape[-1] for array in first] == [KEY_DEPTH, KEY_DEPTH, 3, KEY_DEPTH, KEY_DEPTH, 3]


def test_what_is_not_a_number_does_not_pass():
    check = Check(5, 7, 3, 1, 1, "float32", "highest")
    fine = dict.fromkeys(exact.NAMES, 9e-6)
    assert judged(check, fine) == {"passed": True, "errors": fine}
    for bad in (2e-5, float("nan"), float("inf")):
        row = judged(check, fine | {"key": bad})
        assert not row["passed"] and row["reason"].startswith("key is off by")


def row(name, size, *, passed, refused=False, dtype="bfloat16"):
    verdict = {"implementation": name, "map": size, "dtype": dtype, "passed": passed}
    return verdict | ({} if passed else {"reason": "the reason"}) | ({"refused": True} if refused else {})


def test_who_is_wrong_or_refuses_is_left_out():
    rows = [row("good", "14x14", passed=True), row("good", "7x7", passed=True)]
    rows += [row("wrong", "14x14", passed=True), row("wrong", "7x7", passed=False)]
    rows += [row("shy", "14x14", passed=True), row("shy", "7x7", passed=False, refused=True)]
    rows += [row("half", "14x14", passed=False, dtype="float32"), row("half", "14x14", passed=True)]
    verdicts = Verdicts({"rows": rows})

    def taken(name, size):
        return verdicts.objection(name, size, "bfloat16") is None

    assert taken("good", "14x14") and taken("good", "7x7") and taken("good", "28x28")
    assert taken("wrong", "14x14") and not taken("wrong", "7x7") and not taken("wrong", "28x28")
    assert taken("shy", "14x14") and not taken("shy", "7x7") and taken("shy", "28x28")
    assert taken("half", "14x14")
    assert verdicts.objection("wrong", "7x7", "bfloat16") == "left out: 7x7 bfloat16: the reason"
    assert verdicts.objection("absent", "7x7", "bfloat16") == "left out: it was not checked"
    assert Verdicts({}).objection("absent", "7x7", "bfloat16") is None  # nothing was checked at all


def test_a_trace_of_this_machine_names_programs_and_their_time():
    def first_program(x):
        return jnp.tanh(x @ x).sum()

    def second_program(x):
        return jnp.sort(x @ x.T, axis=0)

    programs = [jax.jit(function) for function in (first_program, second_program)]
    x = jnp.ones((101, 101))
    for program in programs:
        program(x).block_until_ready()
    with kernels.traced() as trace:
        for program in programs:
            for _ in range(3):
                program(x).block_until_ready()
    by_module = trace.by_module()
    assert {"jit_first_program", "jit_second_program"} <= set(by_module)
    assert all(milliseconds > 0 for milliseconds in by_module.values())
    assert all(kernel.calls % 3 == 0 for kernel in trace.kernels if "program" in kernel.module)
    longest = trace.longest(2)
    assert longest[0].milliseconds >= longest[1].milliseconds
    assert longest[0].milliseconds <= sum(by_module.values())


GPU_TRACE = """
planes {
  name: "/host:CPU"
  lines { name: "python" events { metadata_id: 1 duration_ps: 999000000 stats { metadata_id: 2 str_value: "host" } } }
  event_metadata { key: 1 value { id: 1 name: "on the host" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_op" } }
}
planes {
  name: "/device:GPU:0"
  lines {
    name: "Stream #14(Compute)"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 3000000 stats { metadata_id: 1 str_value: "fusion.1" }
             stats { metadata_id: 2 str_value: "jit_train_step" } stats { metadata_id: 3 str_value: "jit(f)/dot" } }
    events { metadata_id: 2 offset_ps: 4000000 duration_ps: 5000000 stats { metadata_id: 1 str_value: "conv.2" }
             stats { metadata_id: 2 str_value: "jit_train_step" } }
    events { metadata_id: 1 offset_ps: 9500000 duration_ps: 4000000 stats { metadata_id: 1 str_value: "fusion.3" }
             stats { metadata_id: 2 str_value: "jit_train_step" } }
  }
  lines { name: "Stream #15(MemcpyH2D)" events { metadata_id: 3 offset_ps: 0 duration_ps: 500000 } }
  lines { name: "XLA Modules" events { metadata_id: 4 offset_ps: 0 duration_ps: 13500000 } }
  lines { name: "XLA Ops" events { metadata_id: 5 offset_ps: 0 duration_ps: 3000000 } }
  event_metadata { key: 1 value { id: 1 name: "loop_fusion" } }
  event_metadata { key: 2 value { id: 2 name: "cudnn_kernel" } }
  event_metadata { key: 3 value { id: 3 name: "MemcpyH2D" } }
  event_metadata { key: 4 value { id: 4 name: "jit_train_step" } }
  event_metadata { key: 5 value { id: 5 name: "fusion.1" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }
  stat_metadata { key: 3 value { id: 3 name: "name" } }
}
"""


def test_of_a_gpus_trace_the_streams_count_once(tmp_path):
    data = jax.profiler.ProfileData.text_proto_to_serialized_xspace(GPU_TRACE)
    (tmp_path / "host.xplane.pb").write_bytes(data)
    found = kernels.read(tmp_path)
    trace = kernels.Trace(found)
    assert trace.by_module() == pytest.approx({"jit_train_step": 0.012, "": 0.0005})
    first, second, third = trace.longest(20)
    assert (first.name, first.calls, first.operation, first.source) == ("loop_fusion", 2, "fusion.1", "jit(f)/dot")
    assert (second.name, second.calls, third.name) == ("cudnn_kernel", 1, "MemcpyH2D")
    assert first.milliseconds == pytest.approx(0.007)
    shown = profiled.of_trace(trace, runs=2)
    assert shown["device_ms_per_step"] == pytest.approx(0.0063, abs=1e-4)
    assert shown["kernels"][0] | {"milliseconds": 0.0035, "calls": 1.0} == shown["kernels"][0]
    assert sum(each["share"] for each in shown["kernels"]) == pytest.approx(1, abs=1e-3)


def test_no_trace_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="left no trace"):
        kernels.read(tmp_path)


def test_outcomes_of_tests_are_read_from_pytests_report(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert 1 == 2, 'one is not two'\n"
        "@pytest.mark.skip(reason='no card')\n"
        "def test_c(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), f"--junit-xml={tmp_path / 'r.xml'}"]
    subprocess.run([*command, str(tmp_path / "test_it.py")], cwd=tmp_path, capture_output=True)
    found = tests.outcomes(tmp_path / "r.xml")
    assert found["passed"] == 1
    assert len(found["failed"]) == 1 and "test_b: AssertionError: one is not two" in found["failed"][0]
    assert found["skipped"] == ["test_it::test_c: no card"]
    with pytest.raises(ValueError, match="left no report"):
        tests.outcomes(tmp_path / "none.xml")


def test_a_compiler_that_fails_is_no_refusal():
    assert is_refusal(ValueError("a map that it does not serve")) and is_refusal(NotImplementedError())
    assert not is_refusal(jax.errors.JaxRuntimeError("INTERNAL: ptxas")) and not is_refusal(KeyError())


@pytest.mark.thorough
def test_without_a_gpu_a_part_says_so_at_once(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks.gpu", f"--out={tmp_path}", "--parts", "env", "attention"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and done.stdout.count("no GPU: JAX uses cpu; --rehearse tries the parts on a CPU") >= 2
    assert "copy_bytes_per_second" not in json.loads((tmp_path / "env.json").read_text())


@pytest.mark.parametrize(("part", "started"), [("attention", True), ("env", False), ("timm", False), ("tests", False)])
def test_parts_whose_card_is_not_jaxs_find_its_devices_not_started(monkeypatch, tmp_path, part, started):
    happened = []
    module = SimpleNamespace(run=lambda setting: happened.append("run"))
    monkeypatch.setattr(commands.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(commands.Setting, "require_gpu", lambda setting: happened.append("started"))
    given = dict(out=tmp_path, seconds=1.0, command="", commit="", rehearse=False, data=None, part=part)
    commands.run_one(SimpleNamespace(**given))
    assert happened == ["started"] * started + ["run"]


def test_without_the_cuda_plugin_nothing_is_compiled(tmp_path):
    from aa_flax.analysis import gpu_compiler
    from experiments.benchmarks.gpu import compiled

    if gpu_compiler.installed():
        pytest.skip("JAX's CUDA plugin is here")
    with pytest.raises(SystemExit, match="aa_flax.plan_gpu"):
        compiled.run("h100:1", tmp_path, ["attention"], "the command", "")


def test_packages_that_are_missing_are_unpacked(tmp_path):
    for name, module in (("wanted_here-1.0-py3-none-any.whl", "wanted_here"), ("NumPy-1.0-py3-none-any.whl", "numpy")):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "")
    site = packages.unpack(tmp_path, tmp_path / "site")
    assert [path.name for path in site.iterdir()] == ["wanted_here"]
    with pytest.raises(SystemExit, match="no wheels"):
        packages.unpack(tmp_path / "empty", tmp_path / "site")


def test_every_package_is_pinned_for_python_3_12():
    pins = packages.pins()
    assert [pin.partition("==")[0] for pin in pins] == list(packages.WANTED)
    assert all(pin.partition("==")[2] for pin in pins)


def test_where_there_is_no_git_the_commit_is_told(tmp_path):
    for told, expected in (("abc", "abc"), ("", commit())):
        found = Setting(tmp_path, 1.0, "the command", commit=told, rehearse=True).record("env.json", device="a card")
        assert (found.get("commit"), found.get("device"), found.get("command")) == (expected, "a card", "the command")


def test_launches_that_are_tried():
    """The library's own launch comes first, and every other differs from it."""
    described = [launch.described(128) for launch in launches(32, 32, 2, 128, interpret=False)]
    assert described[0] == {"tiles": [32, 32], "warps": 2, "stages": [1, 3], "group": 8}
    assert {"tiles": [32, 32], "warps": 1, "stages": [1, 3], "group": 8} in described
    assert {"tiles": [16, 16], "warps": 1, "stages": [1, 3], "group": 8} in described
    assert sum(each["tiles"] == [32, 32] for each in described) == 9
