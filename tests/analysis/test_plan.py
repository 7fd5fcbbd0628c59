"""Tests of planning: the compiled program, the search, the report; and of libtpu itself, in processes of its own."""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import forked
import jax
import numpy as np
import pytest

from aa_flax import data
from aa_flax.analysis import gpu_compiler, tpu_compiler
from aa_flax.analysis.compiler import CompilerError, DoesNotFit
from aa_flax.analysis.counts import Counts
from aa_flax.analysis.hlo_traffic import Collective
from aa_flax.analysis.hlo_work import Launch
from aa_flax.analysis.plan import Bound, Memory, Plan, plan
from aa_flax.analysis.plan_report import as_json, print_plan
from aa_flax.analysis.programs import lower, of_config, of_model
from aa_flax.analysis.provenance import ROOT
from aa_flax.analysis.slices import find_slice
from aa_flax.analysis.sweep import Attempt, largest_that_fits
from aa_flax.analysis.targets import find_target
from aa_flax.config.schema import ConfigError, default_config, resolve
from aa_flax.data.facts import FACTS
from aa_flax.drawing.summary import summarize
from aa_flax.tasks import make_task
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout, place_batch
from aa_flax.training.train_sizes import example_shapes

needs_libtpu = pytest.mark.skipif(not tpu_compiler.installed(), reason="libtpu is not installed")
V5E = find_slice("v5e:2x2")
LOCK = Path("/").joinpath("tmp", "libtpu_lockfile")  # libtpu's path, which TMPDIR does not change


# The compiled program


@pytest.fixture
def tiny():
    config = default_config()
    config.batch_size = 16
    config.model.dtype = "bfloat16"
    config.model.options = dict(depth=10, widen_factor=1, num_heads=2, min_key_depth_per_head=3, attention_downsample=2)
    config.data.image_size = 8
    config.data.crop_padding = 1
    config.optimizer.ema_decay = 0.9
    return config


@pytest.mark.thorough
@pytest.mark.usefixtures("unchecked_shapes")  # a state of shapes holds no arrays
def test_the_program_is_the_one_that_runs(tiny):
    """A step lowered from shapes and one lowered from a run's own arrays have the same text."""
    subject = of_config(resolve(tiny))
    config, prepared = subject.config, subject.preprocessing
    layout = Layout.of(config)
    planned = lower(subject, "train", layout.mesh)
    program = Program.of(config, prepared, layout, subject.epoch_steps)
    state = program.new_state()
    batch = {"image": np.zeros((16, 8, 8, 1), np.uint8), "label": np.zeros(16, np.int32)}
    with jax.set_mesh(layout.mesh):
        run = program.train_step.lower(state, place_batch(batch, layout))
    assert planned.program.as_text() == run.as_text()
    count = sum(leaf.size for leaf in jax.tree.leaves(program.params))
    assert planned.params_bytes == 4 * count
    assert planned.optimizer_bytes == 4 * count + 4  # momentum, and the schedule's step
    assert planned.ema_bytes == 4 * count + planned.batch_stats_bytes


@pytest.fixture
def tiny_detector(data_dir):
    config = default_config()
    config.batch_size = 8
    config.model.name = "retinanet_resnet18"
    small = dict(width=8, blocks=(1, 1, 1, 1), fpn_width=8, head_width=8, head_depth=1)
    config.model.options = dict(small, max_level=5, candidates=20, max_detections=7)
    config.task.name = "detection"
    config.data.name = "bccd_subset"
    config.data.data_dir = data_dir
    config.data.crop = "scaled"
    config.data.image_size = (32, 64)
    return config


def test_the_batch_of_a_detector_is_the_one_that_is_read(tiny_detector):
    subject = of_config(resolve(tiny_detector))
    task = make_task(subject.config, subject.preprocessing)
    source = data.load("bccd_subset", data_dir=tiny_detector.data.data_dir).split("train", task.targets)
    with data.train_batches(source, batch_size=2, crop="scaled", image_size=(32, 64), seed=0, num_threads=1) as batches:
        read = next(batches)
    planned = example_shapes(task, subject.preprocessing)
    assert {name: (each.shape[1:], each.dtype) for name, each in read.items() if name != "index"} == {
        name: (each.shape, each.dtype) for name, each in planned.items()
    }


@pytest.mark.parametrize(
    ("name", "task", "columns"),
    [("mask_rcnn_resnet50", "detection", 91), ("upernet_patchconvnet_s60", "segmentation", 150)],
)
def test_a_network_is_planned_for_its_own_task(name, task, columns):
    subject = of_model(name)
    assert subject.config.task.name == task
    planned = make_task(subject.config, subject.preprocessing)
    assert (planned.num_columns if task == "detection" else planned.num_classes) == columns


@pytest.mark.usefixtures("unchecked_shapes")
def test_inference_of_a_detector_ends_with_its_detections(tiny_detector):
    """Each device decodes and suppresses the boxes of its own two images, as evaluation does; none sorts all scores."""
    planned = lower(of_config(resolve(tiny_detector)), "infer", jax.make_mesh((4,), ("data",)))
    found = {name: (each.shape, each.dtype) for name, each in planned.program.out_info.items()}
    assert found == {
        "boxes": ((8, 7, 4), np.float32),
        "scores": ((8, 7), np.float32),
        "classes": ((8, 7), np.int32),
        "valid": ((8, 7), np.bool_),
    }
    assert planned.optimizer_bytes == 0 < planned.params_bytes
    anchors, classes = (4 * 8 + 2 * 4 + 1 * 2) * 6, 3
    operands = r"(?:chlo\.top_k\([^)]*\) : |\"stablehlo\.sort\"\(.*?\n\s*\}\) : )\(?tensor<2x(\d+)x"
    sorted_ = [int(length) for length in re.findall(operands, planned.program.as_text(), re.DOTALL)]
    assert sorted(sorted_) == [20, 20, 20 * classes, anchors]


@pytest.mark.thorough
@pytest.mark.usefixtures("unchecked_shapes")
def test_the_step_of_a_detector_is_the_one_that_runs(tiny_detector, rng):
    subject = of_config(resolve(tiny_detector))
    layout = Layout.of(subject.config)
    planned = lower(subject, "train", layout.mesh)
    program = Program.of(subject.config, subject.preprocessing, layout, subject.epoch_steps)
    batch = {
        "image": np.zeros((8, 32, 64, 3), np.uint8),
        "boxes": np.zeros((8, 100, 4), np.float32),
        "classes": np.zeros((8, 100), np.int32),
        "valid": np.zeros((8, 100), bool),
        "placement": np.ones((8, 8), np.float32),
    }
    state = program.new_state()
    with jax.set_mesh(layout.mesh):
        run = program.train_step.lower(state, place_batch(batch, layout))
    assert planned.program.as_text() == run.as_text()


def test_a_detector_by_name_is_trained_to_detect():
    subject = of_model("retinanet_aa_resnet50")
    assert (subject.config.task.name, subject.config.model.dtype) == ("detection", "bfloat16")
    assert subject.preprocessing.image_size == (640, 640) and subject.preprocessing.num_classes == 90
    assert make_task(subject.config, subject.preprocessing).num_columns == 90
    assert subject.with_model("retinanet_resnet50").config.model.name == "retinanet_resnet50"
    assert of_model("resnet18").config.task.name == "classification"
    with pytest.raises(ConfigError, match="resnet50 is for classification and retinanet_aa_resnet50 for detection"):
        subject.with_model("resnet50")


def test_defaults_of_a_model_by_name():
    subject = of_model("aa_wide_resnet28_10")
    assert subject.preprocessing.image_size == (32, 32) and subject.preprocessing.num_classes == 100
    assert subject.config.model.dtype == subject.preprocessing.dtype == "bfloat16"
    assert subject.config.optimizer.name == "sgd" and subject.config.optimizer.momentum == 0.9
    assert of_model("resnet18", (96, 64)).preprocessing.image_size == (96, 64)


def test_a_baseline_keeps_the_options_that_it_has(tiny):
    baseline = of_config(resolve(tiny)).with_model("wide_resnet28_10").config.model
    assert baseline.options == {"depth": 10, "widen_factor": 1}


def test_mistakes_name_what_is_accepted(tiny):
    with pytest.raises(ConfigError, match="no model named 'resnet5'; did you mean 'resnet50'"):
        of_model("resnet5")
    tiny.data.name = "imagenet2012"
    assert of_config(resolve(tiny)).preprocessing.num_classes == 1000
    tiny.data.image_size = 0
    with pytest.raises(ConfigError, match="'data.image_size' must be set"):
        of_config(resolve(tiny))
    tiny.data.name = "no_such_set"
    with pytest.raises(data.DataError, match="no_such_set is not prepared"):
        of_config(resolve(tiny))
    with pytest.raises(ConfigError, match=r"batch must divide by the 8 devices of v5e:2x2: 12 does not, 16 does"):
        plan(of_model("resnet18").with_batch(12), "train", V5E, jax.make_mesh((8,), ("data",)))


@pytest.mark.thorough
def test_facts_are_those_of_the_data(tmp_path):
    dataset = data.load("fashion_mnist_subset", data_dir=tmp_path)
    facts = FACTS[dataset.name]
    assert facts.image_shape == dataset.image_shape and facts.num_classes == dataset.num_classes
    assert facts.train_examples == dataset.splits["train"] and facts.category_ids == ()


def test_facts_of_detection_number_the_classes(data_dir):
    dataset = data.load("bccd_subset", data_dir=data_dir)
    facts = FACTS[dataset.name]
    assert (facts.image_shape, facts.num_classes) == (dataset.image_shape, dataset.num_classes)
    assert (facts.train_examples, facts.category_ids) == (dataset.splits["train"], dataset.category_ids)
    coco = FACTS["coco/2017"]
    # The first and last of COCO's classes, and the neighbours of some numbers that it leaves out: stop sign, toilet.
    assert coco.num_classes == len(coco.category_ids) == 80 and coco.category_ids[:12] == (*range(1, 12), 13)
    assert (coco.category_ids[61], coco.category_ids[79], coco.train_examples) == (70, 90, 118_287)


def test_every_config_here_can_be_planned_without_its_data():
    files = [file for file in (ROOT / "experiments").rglob("*.py") if "def get_config" in file.read_text()]
    assert len(files) > 30
    for file in files:
        config = resolve(runpy.run_path(str(file))["get_config"]())
        assert config.data.name in FACTS and of_config(config).epoch_steps > 3, file


# The search


@pytest.mark.parametrize("answer", [1, 3, 8, 9, 56, 64, 100, 1000])
@pytest.mark.parametrize("start", [1, 64, 256])
@pytest.mark.parametrize("known", [True, False])
def test_sweep_finds_the_largest_that_fits(answer, start, known):
    def try_size(size):
        return Attempt(size, size <= answer, 10 * size + 30 if known else None)

    attempts = largest_that_fits(try_size, start, limit=10 * answer + 39)
    largest = max(a.size for a in attempts if a.fits)
    assert largest == (answer if answer <= 8 else answer // 8 * 8)
    assert len({a.size for a in attempts}) == len(attempts) <= 18


def test_sweep_where_nothing_fits():
    attempts = largest_that_fits(lambda size: Attempt(size, False, None), 8, limit=1)
    assert [a.size for a in attempts] == [8, 4, 2, 1]


# The report


def some_plan(name="resnet18", scale=1, fits=True):
    counts = Counts(
        flops=int(3e12) * scale,
        kernel_flops=0,
        bytes_moved=int(80e9) * scale,
        hbm_bytes=int(60e9) * scale,
        bytes_by_compiler=int(80e9) * scale,
        kernels=[],
        collectives=[Collective("all-reduce", 36, 23_779_840 * scale, 35_669_760 * scale)],
        loops=[],
    )
    return Plan(
        subject=of_model(name).with_batch(1024),
        mode="train",
        target=V5E,
        devices_per_chip=1,
        params_bytes=46_758_048 * scale,
        batch_stats_bytes=38_400,
        optimizer_bytes=46_758_052 * scale,
        ema_bytes=0,
        memory=Memory(1, 1, 1, int(8e9) * scale, 1, int(9e9) * scale) if fits else Memory(temporary=int(18.4e9)),
        fits=fits,
        counts=counts if fits else None,
        bound=Bound(0.015 * scale, 0.073 * scale, 0.0002, 1024 / (0.073 * scale)) if fits else None,
        compile_seconds=1.23,
    )


def test_json_has_the_promised_numbers_at_the_top():
    result = json.loads(json.dumps(as_json(some_plan(scale=2), some_plan("resnet34"), command="plan --json")))
    promised = ("params_bytes", "optimizer_bytes", "temp_bytes", "flops", "bytes_moved", "collective_bytes")
    for name in promised:
        assert isinstance(result[name], int) and result["ratios"][name] == 2, name
    assert result["fits"] is True and result["bound_by"] == "memory" and result["baseline"]["model"] == "resnet34"
    assert result["versions"]["jax"] == jax.__version__ and result["command"] == "plan --json"


def test_json_of_a_part_of_the_program():
    text = """ENTRY %main (x: f32[10]) -> f32[10] {
  %x = f32[10]{0} parameter(0)
  %y = f32[10]{0} negate(%x), metadata={op_name="jit(step)/jit(_roi_align)/neg"}
  ROOT %z = f32[10]{0} negate(%y), metadata={op_name="jit(step)/neg"}
}
"""
    part = as_json(dataclasses.replace(some_plan(), hlo=text, devices_per_chip=2), scope="roi_align")["scope"]
    assert part == {
        "name": "roi_align",
        "bytes": 160,
        "hbm_bytes": 160,
        "flops": 0,
        "of_bytes": 320,
        "of_hbm_bytes": 320,
        "of_flops": 0,
    }
    assert as_json(some_plan(fits=False), scope="roi_align")["scope"] is None and "scope" not in as_json(some_plan())


def test_json_of_what_does_not_compile():
    result = as_json(some_plan(fits=False), some_plan("resnet34"), tried=[some_plan(fits=False), some_plan()])
    assert result["fits"] is False and result["flops"] is None and result["ratios"]["flops"] is None
    assert result["temp_bytes"] == 18_400_000_000
    assert result["sweep"]["largest_batch"] == 1024 and len(result["sweep"]["attempts"]) == 2


def test_the_table(capsys):
    print_plan(some_plan(scale=2), some_plan("resnet34"))
    printed = capsys.readouterr().out
    assert "resnet18, training step, v5e:2x2 (v5litepod-4, 4 chips), batch 1,024, 224×224, bfloat16" in printed
    rows = {line[:30].strip(): line.split()[-1] for line in printed.splitlines()}
    assert rows["bytes moved"] == rows["step takes at least"] == "2.00"
    assert "the bound is set by HBM" in printed and "https://cloud.google.com/tpu/docs/v5e" in printed
    print_plan(some_plan(fits=False))
    printed = capsys.readouterr().out
    assert "does not fit into the 16.91 GB that programs may use of a chip: 18.40 GB of temporary memory" in printed


def test_a_plan_for_gpus(capsys):
    """The top-level numbers are those of a TPU plan; kernels are listed by name, and the card is described in words."""
    launches = [Launch(f"kernel{i}", "jit(step)/[b]", "", 1 + i, 1000 - i) for i in range(12)]
    planned = some_plan()
    counts = dataclasses.replace(planned.counts, bytes_by_compiler=None, launches=launches)
    planned = dataclasses.replace(planned, target=find_target("h100:8"), counts=counts)
    result = json.loads(json.dumps(as_json(planned)))
    for name in ("params_bytes", "optimizer_bytes", "temp_bytes", "flops", "bytes_moved", "collective_bytes"):
        assert isinstance(result[name], int), name
    assert (result["topology"], result["chips"], result["chip"]["name"]) == ("h100:8", 8, "h100")
    assert result["kernel_calls"] == 78 and [each["name"] for each in result["largest_kernels"]][-1] == "kernel9"
    print_plan(planned)
    printed = capsys.readouterr().out
    assert "resnet18, training step, h100:8 (8 chips), batch 1,024" in printed
    assert "that JAX takes of a card of 84.94 GB" in printed and "the bound is set by HBM3" in printed
    assert "kernel9" in printed and "kernel10" not in printed and "[b]" in printed  # brackets are not markup
    assert "from and to" not in printed  # the plan does not know which arrays stay in on-chip memory


def test_a_kernel_too_large_for_a_card_is_one_line():
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Shared memory size limit exceeded:\nrequested 300000")

    with pytest.raises(CompilerError, match="a kernel needs more than the card has: .* exceeded: requested 300000"):
        gpu_compiler.compile_program(Lowered())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("total memory required for HLO temporaries (17.14G) exceeds available HBM (15.75G).", round(17.14 * 2**30)),
        ("Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.", round(512.5 * 2**20)),
        ("Attempting to allocate much", None),
    ],
)
def test_too_little_memory_is_an_answer(message, expected):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, {message}")

    with pytest.raises(DoesNotFit) as caught:
        tpu_compiler.compile_program(Lowered())
    assert caught.value.temporary_bytes == expected


def test_too_little_vmem_is_no_question_of_the_batch():
    class Lowered:
        def compile(self):
            message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 21.76M of 16.00M vmem."
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(CompilerError, match="a kernel needs more VMEM than the chip has: .*21.76M"):
        tpu_compiler.compile_program(Lowered())


def test_without_libtpu(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(tpu_compiler, "installed", lambda: False)
    with pytest.raises(CompilerError, match=r"libtpu is not installed: pip install 'aa_flax\[plan\]'"):
        tpu_compiler.prepare()


# libtpu


def python(*arguments, code=0, **environment):
    """Run Python as a user does and return the finished process.

    Several processes may load libtpu at once unless `environment` forbids it.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **environment},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
@needs_libtpu
def test_inference_on_a_slice_that_is_not_there(tmp_path):
    arguments = ["--model=resnet18", "--image_size=32", "--mode=infer", "--topology=v5litepod-16", "--batch=64"]
    done = python("-m", "aa_flax.plan", *arguments, "--json", f"--hlo={tmp_path}/program.txt")
    found = json.loads(done.stdout)
    expected = summarize("resnet18", 32, batch=64)
    assert found["params_bytes"] == 4 * expected.params and found["optimizer_bytes"] == 0
    assert 0.9 < 16 * found["flops"] / expected.flops < 1.1  # the compiler does not count padding
    assert found["fits"] and found["chips"] == 16 and found["collective_bytes"] == 0
    assert found["params_bytes"] < found["hbm_bytes"] < found["bytes_moved"] == found["bytes_by_compiler"]
    assert found["bound_seconds"] >= found["hbm_bytes"] / 819e9
    assert "ENTRY" in (tmp_path / "program.txt").read_text()
    assert "compiling resnet18 for v5e:4x4, batch 64" in done.stderr


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_small_detector_on_a_slice(mode):
    """A config of COCO, made small: 8 images of 64×128 on 4 chips, with boxes, or with detections at the end."""
    options = dict(width=16, blocks="(1,1,1,1)", fpn_width=8, head_width=8, head_depth=1, max_level=5)
    options |= dict(num_heads=1, candidates=100, max_detections=10)
    arguments = ["--config=experiments/coco/retinanet_aa_resnet50.py", "--config.model.name=retinanet_aa_resnet18"]
    arguments += [f"--config.model.options.{name}={value}" for name, value in options.items()]
    arguments += ["--config.parallel.batch_norm_groups=4", "--image_size=64x128", f"--mode={mode}"]
    found = json.loads(python("-m", "aa_flax.plan", *arguments, "--topology=v5e:2x2", "--batch=8", "--json").stdout)
    assert found["fits"] and (found["image_size"], found["mode"], found["batch"]) == ([64, 128], mode, 8)
    if mode == "infer":
        assert found["optimizer_bytes"] == 0 and found["collective_bytes"] < 1e6
    else:
        assert found["optimizer_bytes"] == found["params_bytes"] + 4
        assert found["collective_bytes"] >= found["params_bytes"] / 2  # gradients, in bfloat16 at least


@pytest.mark.slow
@needs_libtpu
def test_training_on_v4_in_pieces():
    """Two cores of a v4 chip are one device, as in a real run; the body of a loop counts as often as it runs."""
    arguments = ["--config=experiments/quickstart.py", "--topology=v4-8", "--batch=256", "--config.data.image_size=8"]
    options = [f"--config.model.options.{option}" for option in ("widen_factor=1", "attention_stages=(3,)")]
    found = json.loads(
        python("-m", "aa_flax.plan", *arguments, *options, "--config.optimizer.accumulation_steps=2", "--json").stdout
    )
    assert found["devices_per_chip"] == 1 and found["loops"] == [2]
    assert found["optimizer_bytes"] == found["params_bytes"] + 4
    assert found["collective_bytes"] >= found["params_bytes"] / 2  # gradients, in bfloat16 at least
    assert found["temp_bytes"] > 0 and found["fits"]


KERNEL = """
import jax, jax.numpy as jnp
from jax.experimental import pallas as pl
from aa_flax.analysis import count

def double(x_ref, o_ref):
    o_ref[...] = x_ref[...] * 2

def f(x):
    estimate = pl.CostEstimate(flops=12345, bytes_accessed=10**12, transcendentals=0)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(double, out_shape=shape, cost_estimate=estimate)(x)

counts = count("v5e:1x1", f, jax.ShapeDtypeStruct((640, 200), jnp.bfloat16)).counts
print(counts.bytes_by_compiler - 10**12, counts.bytes_moved, counts.kernels[0].bytes, counts.kernel_flops)
"""


@pytest.mark.thorough
@needs_libtpu
def test_a_kernel_counts_its_operands_and_results():
    others, moved, kernel, flops = map(int, python("-c", KERNEL).stdout.split())
    assert kernel == 2 * 640 * 256 * 2  # 200 columns fill two tiles
    assert moved == others + kernel and others > 0 and flops == 12345


BRANCHES = """
import jax, jax.numpy as jnp
from aa_flax.analysis import count

def f(seldom, x):
    return jax.lax.cond(seldom, lambda x: (jnp.cumsum(x @ x, 0) @ x).sum(), lambda x: x.sum(), x)

x, seldom = jax.ShapeDtypeStruct((4096, 4096), jnp.float32), jax.ShapeDtypeStruct((), bool)
counts = count("v5e:1x1", f, seldom, x).counts
print(counts.bytes_by_compiler, counts.bytes_moved, x.size * 4)
"""


@pytest.mark.thorough
@needs_libtpu
def test_a_branch_that_is_seldom_taken_does_not_count():
    by_compiler, moved, size = map(int, python("-c", BRANCHES).stdout.split())
    assert by_compiler > 8 * size and size <= moved < 2.5 * size


SPLIT = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
from aa_flax.analysis import count
from aa_flax.analysis.compiler import DoesNotFit

x, w = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16), jax.ShapeDtypeStruct((512, 256), jnp.bfloat16)
for target, specs in (("v5e:1x1", None), ("v5e:2x2", (PartitionSpec("data"), PartitionSpec()))):
    counted = count(target, lambda x, w: (x @ w).sum(), x, w, specs=specs)
    print(counted.counts.flops, counted.fits, len(counted.counts.collectives))
large = count("v5e:1x1", lambda x: jnp.sort(x @ x.T, 0) @ x, jax.ShapeDtypeStruct((100_003, 64), jnp.bfloat16))
print(large.temporary_bytes, large.fits)
try:
    large.counts
except DoesNotFit as verdict:
    print(verdict.temporary_bytes)
"""


@pytest.mark.thorough
@needs_libtpu
def test_what_is_split_counts_by_chip_and_what_does_not_fit_has_no_counts():
    alone, split, large, verdict = (line.split() for line in python("-c", SPLIT).stdout.splitlines())
    assert int(alone[0]) == pytest.approx(4 * int(split[0]), rel=0.01) and int(alone[0]) >= 2 * 1024 * 512 * 256
    assert (alone[1:], split[1:]) == (["True", "0"], ["True", "1"])
    assert int(large[0]) > 16 * 2**30 and large[1] == "False" and verdict == large[:1]


STACKED = """
import json, sys
import jax, jax.numpy as jnp
from flax import nnx
from aa_flax.analysis import count
from aa_flax.models import create_model

rows = []
for depth in (4, 8, 16):
    options = dict(width=128, depth=depth, num_classes=2, rematerialize=sys.argv[1] == "True", dtype=jnp.bfloat16)
    model = nnx.eval_shape(lambda: create_model("patchconvnet_s60", **options, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model.trunk)

    def loss(state, x):
        return nnx.merge(graph, state, copy=True)(x, train=True, rngs=None)[0].astype(jnp.float32).sum()

    x = jax.ShapeDtypeStruct((int(sys.argv[2]), 14, 14, 128), jnp.bfloat16)
    counts = count("v5e:1x1", jax.grad(loss), nnx.to_pure_dict(state), x).counts
    rows.append({name: getattr(counts, name) for name in ("flops", "hbm_bytes", "bytes_moved", "loops")})
print(json.dumps(rows))
"""


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("rematerialize", "batch"), [(True, 1024), (False, 256)])  # more than on-chip memory holds
def test_stacked_blocks_count_as_often_as_they_run(rematerialize, batch):
    """Bytes and products of a gradient grow in proportion to the number of blocks, whatever the loops keep.

    The tolerance is a tenth, because the compiler does not place all arrays alike. If the whole stack were counted in
    each iteration, the ratio would double.
    """
    rows = json.loads(python("-c", STACKED, rematerialize, batch).stdout)
    assert [row["loops"] for row in rows] == [[4, 4], [8, 8], [16, 16]]
    for name in ("flops", "hbm_bytes", "bytes_moved"):
        first, second, third = (row[name] for row in rows)
        assert third - second == pytest.approx(2 * (second - first), rel=0.1), name


@pytest.mark.thorough
@needs_libtpu
def test_mistakes_and_verdicts_of_the_command():
    model = ["-m", "aa_flax.plan", "--model=resnet18", "--image_size=32", "--mode=infer"]
    done = python(*model, "--topology=v5e:1x1", "--batch=100000000", "--json")
    assert json.loads(done.stdout)["fits"] is False
    done = python(*model, "--topology=v5e:3x5", "--batch=15", code=2)
    assert done.stderr.startswith("error: topology 'v5e:3x5': ") and done.stderr.count("\n") == 1 and not done.stdout


@needs_libtpu
def test_another_process_has_libtpu():
    new = not LOCK.exists()
    if not new and not os.access(LOCK, os.W_OK):
        pytest.skip("the lock file is another user's")
    with LOCK.open("a") as lock, contextlib.ExitStack() as after:
        if new:
            after.callback(LOCK.unlink, missing_ok=True)  # a lock file left behind would block other users
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pytest.skip("another process is using libtpu")
        arguments = ["--model=resnet18", "--topology=v5e:2x2", "--batch=8"]
        done = python("-m", "aa_flax.plan", *arguments, code=2, ALLOW_MULTIPLE_LIBTPU_LOAD="")
    assert done.stderr.startswith("error: another process is using libtpu") and done.stderr.count("\n") == 1


@pytest.mark.thorough
def test_mistakes_that_need_no_libtpu():
    for arguments, words in (
        ((), "--batch must be given with --model: images of all chips together"),
        (("--config.model.options.depth=5",), "--config.model.options.depth needs --config=FILE"),
        (("--batch=4", f"--hlo={ROOT}"), f"--hlo: {ROOT} is a folder"),
    ):
        done = forked.run("-m", "aa_flax.plan", "--model=resnet18", "--topology=v5e:2x2", *arguments)
        assert (done.returncode, done.stderr) == (2, f"error: {words}\n")
    done = forked.run("-m", "aa_flax.plan", "--config=no/such.py", "--topology=v5e:2x2")
    assert "error: no/such.py: no such file" in done.stderr
    assert done.returncode == 2 and done.stderr.count("\n") == 1
