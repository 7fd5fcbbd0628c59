"""Tests of the configs of detection: one for each row of Tables 5 and 8 of Bello et al., with true docstrings."""

import re
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from absl import flags
from flax import nnx

from aa_flax.analysis.ledger import bello_detection
from aa_flax.analysis.programs import of_config
from aa_flax.analysis.provenance import ROOT
from aa_flax.tasks import make_task
from aa_flax.training import resolve
from aa_flax.training.initial import build_model
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout

sys.path.insert(0, str(Path(__file__).parent))
from test_configs import docstring, load

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROWS = [(title[:7], row) for title, rows in bello_detection.TABLES.items() for row in rows if row.config]
BACKBONES = [f"{module}resnet{depth}" for module in ("", "se_", "aa_") for depth in (50, 101)]
COCO = [(f"{row.config}", row) for table, row in ROWS if not (table == "Table 8" and row.label == "relative")]
OTHERS = [f"experiments/bccd/{file}.py:{network}" for file in ("subset", "bccd") for network in ("plain", "se", "aa")]
OTHERS += [f"experiments/bccd/faster_rcnn.py:{network}" for network in ("plain", "aw")]
OTHERS += [f"experiments/coco/from_backbone.py:{backbone}" for backbone in BACKBONES]


def str_of(value):
    """Return what a case of a test is called."""
    return getattr(value, "label", "") or str(value).removeprefix("experiments/")


def resolved(name):
    config = resolve(load(name))
    assert config.task.name == "detection" and config.label and of_config(config).epoch_steps > 5
    return config


def ledger():
    """Return the parameters of each row of the stored ledger, by table and label."""
    found, table = {}, ""
    for line in (ROOT / "experiments" / "results" / "ledger.md").read_text().splitlines():
        table = line.strip("# ")[:7] if line.startswith("#") else table
        cells = [cell.strip() for cell in line.split("|")]
        if table in ("Table 5", "Table 8") and len(cells) > 4 and re.fullmatch(r"[\d,]+", cells[3]):
            found[table, cells[1]] = int(cells[3].replace(",", ""))
    return found


LEDGER = ledger()


def test_the_stored_ledger_has_every_row():
    assert LEDGER.keys() == {(title[:7], row.label) for title, rows in bello_detection.TABLES.items() for row in rows}


@pytest.mark.parametrize(("table", "row"), ROWS, ids=str_of)
def test_every_row_of_the_tables(table, row):
    config = resolved(row.config)
    assert config.model.name == row.model
    assert config.model.options == {"normalizer": "device", **row.options}
    text = docstring(row.config)
    scores = dict(zip(("AP", "AP50", "AP75"), row.scores.split(", "), strict=True))
    assert table in text.partition("python -m")[0] and f"--config={row.config}" in text and "Not said:" in text
    assert "The paper: " + ", ".join(f"{value} {name}" for name, value in scores.items()) in text
    assert not row.params or f"{row.params} M parameters, {row.gflops} GFLOPs" in text
    assert f"Ours: not run yet. {LEDGER[table, row.label] / 1e6:.3f} M parameters" in text


def test_no_config_is_left_over():
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "experiments" / "coco").glob("*.py")}
    retinanets = {file for file in files if "rcnn" not in file}  # tests of the others: test_transfer_configs.py
    assert retinanets == {row.config for _, row in ROWS} | {"experiments/coco/from_backbone.py"}


@pytest.mark.few(5)
@pytest.mark.parametrize("name", OTHERS)
def test_configs_of_no_table(name):
    file, _, argument = name.partition(":")
    config = resolved(name)
    assert argument in (config.model.name.removeprefix("retinanet_"), "plain") or argument in config.model.name
    assert f"--config={file}" in docstring(file)
    if "coco" in file:
        assert (config.model.init_from, config.model.init_part) == (f"runs/{argument}.safetensors", "backbone")
    mistake = f"{Path(file).name} knows .* not 'no'"
    with pytest.raises(flags.IllegalFlagValueError, match=mistake):
        load(f"{file}:no")


@pytest.mark.few
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("name", "row"), [*((name, None) for name in OTHERS), *COCO], ids=str_of)
def test_every_network_is_built_with_the_size_of_the_ledger(name, row):
    config = resolved(name)
    task = make_task(config, of_config(config).preprocessing)
    model = nnx.eval_shape(lambda: build_model(config, task))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    columns = 3 + ("faster_rcnn" in name)  # background is a column
    assert model.num_classes == task.num_columns == (90 if "coco" in name else columns)
    if row is not None:
        assert count in {LEDGER[key] for key in LEDGER if key[1] == row.label}
    elif "bccd" in name:
        assert (0.7e6 < count < 0.9e6) if "subset" in name else (3e6 < count < 3.5e6)


@pytest.mark.thorough
def test_a_small_network_takes_a_step_of_the_recipe(rng):
    """Two steps in epochs of one: at learning rate 0, then at half of its peak, in 8 parts of the batch, 90 columns."""
    config = load("experiments/coco/retinanet_aa_resnet50.py", "--config.model.dtype=float32", "--config.epochs=4")
    small = dict(kind="basic", blocks=(1, 1, 1, 1), width=16, fpn_width=8, head_width=8, head_depth=1, max_level=5)
    config.model.options.update(dict(small, num_heads=1))
    config.optimizer.warmup = 0.5
    config.optimizer.decay_at_epochs = (3.0,)
    config.batch_size = 16
    config = resolve(config)
    prepared = of_config(config, (64, 64)).preprocessing
    program = Program.of(config, prepared, Layout.of(config, jax.devices()[:1]), 1)
    assert program.model((program.params, program.batch_stats)).num_classes == 90
    corners = rng.uniform(0, 40, (16, 100, 2))
    batch = {
        "image": rng.integers(0, 256, (16, 64, 64, 3)).astype(np.uint8),
        "boxes": np.concatenate([corners, corners + rng.uniform(8, 24, (16, 100, 2))], -1).astype(np.float32),
        "classes": rng.integers(0, 80, (16, 100)).astype(np.int32),
        "valid": np.arange(100) < rng.integers(0, 4, (16, 1)),
        "placement": np.tile(np.array([0, 0, 64, 64, 64, 64, 64, 64], np.float32), (16, 1)),
    }
    start = program.new_state()
    before = jax.device_get(start.params)
    first = program.train_step(start, batch)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(first.params))  # the warm-up starts at 0
    after_first = jax.device_get((first.params, first.opt_state))
    second = program.train_step(first, batch)
    assert int(second.skipped) == 0 and np.isfinite(second.window["loss"])
    moved = np.asarray(second.params["class_head"]["out"]["kernel"]) - after_first[0]["class_head"]["out"]["kernel"]
    momentum = optax.tree.get(second.opt_state, "trace")["class_head"]["out"]["kernel"]
    np.testing.assert_allclose(moved, -0.04 * np.asarray(momentum), rtol=1e-3, atol=1e-8)
