"""Tests of every config under experiments/: it loads as on the command line, and has its row of the paper's tables."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from flax import nnx
from ml_collections import config_flags

from aa_flax.analysis.ledger import bello, difference
from aa_flax.analysis.provenance import ROOT
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models import mnasnet
from aa_flax.models.registry import model_options
from aa_flax.tasks import make_task
from aa_flax.training import resolve
from aa_flax.training.initial import build_model
from aa_flax.training.program import Program
from aa_flax.training.schedules import learning_rate
from aa_flax.training.sharding import Layout
from aa_flax.training.step import make_train_step

# ml_collections causes this warning when it opens config files.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FOLDERS = ("cifar", "imagenet", "ablations", "imagenette", "patchconvnet", "aw")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / "experiments" / folder).glob("*.py"))]
CONFIGS = [
    str(file.relative_to(ROOT))
    for file in [*FILES, ROOT / "experiments" / "quickstart.py"]
    if "def get_config(" in file.read_text()
]

# Title of the table, row, file, top-1 and top-5 as printed; "" if the paper prints none.
ROWS = [
    ("Table 1", "Wide-ResNet", "cifar/wide_resnet28_10", "80.3", "95.0"),
    ("Table 1", "GE", "cifar/ge_wide_resnet28_10", "79.8", "95.0"),
    ("Table 1", "SE", "cifar/se_wide_resnet28_10", "81.0", "95.3"),
    ("Table 1", "AA", "cifar/aa_wide_resnet28_10", "81.6", "95.2"),
    ("Table 2", "ResNet-50", "imagenet/resnet50", "76.4", ""),
    ("Table 2", "SE", "imagenet/se_resnet50", "77.5", ""),
    ("Table 2", "BAM", "imagenet/bam_resnet50", "77.3", ""),
    ("Table 2", "CBAM", "imagenet/cbam_resnet50", "77.4", ""),
    ("Table 2", "GALA", "imagenet/gala_resnet50", "77.5", ""),
    ("Table 2", "AA (kappa = upsilon = 0.25)", "ablations/attention_ratio_25", "77.7", ""),
    ("Table 3", "ResNet-34", "imagenet/resnet34", "73.6", "91.5"),
    ("Table 3", "SE-ResNet-34", "imagenet/se_resnet34", "74.3", "91.8"),
    ("Table 3", "AA-ResNet-34", "imagenet/aa_resnet34", "74.7", "92.0"),
    ("Table 3", "ResNet-50", "imagenet/resnet50", "76.4", "93.1"),
    ("Table 3", "SE-ResNet-50", "imagenet/se_resnet50", "77.5", "93.7"),
    ("Table 3", "AA-ResNet-50", "imagenet/aa_resnet50", "77.7", "93.8"),
    ("Table 3", "ResNet-101", "imagenet/resnet101", "77.9", "94.0"),
    ("Table 3", "SE-ResNet-101", "imagenet/se_resnet101", "78.4", "94.2"),
    ("Table 3", "AA-ResNet-101", "imagenet/aa_resnet101", "78.7", "94.4"),
    ("Table 3", "ResNet-152", "imagenet/resnet152", "78.4", "94.2"),
    ("Table 3", "SE-ResNet-152", "imagenet/se_resnet152", "78.9", "94.5"),
    ("Table 3", "AA-ResNet-152", "imagenet/aa_resnet152", "79.1", "94.6"),
    ("Table 4", "MnasNet-0.75", "imagenet/mnasnet_075", "73.3", "91.3"),
    ("Table 4", "AA-MnasNet-0.75", "imagenet/aa_mnasnet_075", "73.9", "91.6"),
    ("Table 4", "MnasNet-1.0", "imagenet/mnasnet_100", "75.2", "92.4"),
    ("Table 4", "AA-MnasNet-1.0", "imagenet/aa_mnasnet_100", "75.7", "92.6"),
    ("Table 4", "MnasNet-1.25", "imagenet/mnasnet_125", "76.7", "93.2"),
    ("Table 4", "AA-MnasNet-1.25", "imagenet/aa_mnasnet_125", "77.2", "93.6"),
    ("Table 4", "MnasNet-1.4", "imagenet/mnasnet_140", "77.2", "93.5"),
    ("Table 4", "AA-MnasNet-1.4", "imagenet/aa_mnasnet_140", "77.7", "93.8"),
    ("Table 6", "kappa = upsilon = 0.25", "ablations/attention_ratio_25", "77.7", "93.8"),
    ("Table 6", "kappa = upsilon = 0.5", "ablations/attention_ratio_50", "77.3", "93.6"),
    ("Table 6", "kappa = upsilon = 0.75", "ablations/attention_ratio_75", "76.7", "93.2"),
    ("Table 6", "fully attentional", "ablations/attention_ratio_100", "73.9", "91.5"),
    ("Table 7", "AA-ResNet-34, none", "ablations/position_none_resnet34", "74.4", "91.9"),
    ("Table 7", "AA-ResNet-34, 2d sine", "ablations/position_sine_resnet34", "74.4", "92.0"),
    ("Table 7", "AA-ResNet-34, CoordConv", "ablations/position_coordconv_resnet34", "74.4", "92.0"),
    ("Table 7", "AA-ResNet-34, relative", "imagenet/aa_resnet34", "74.7", "92.0"),
    ("Table 7", "AA-ResNet-50, none", "ablations/position_none_resnet50", "77.5", "93.7"),
    ("Table 7", "AA-ResNet-50, 2d sine", "ablations/position_sine_resnet50", "77.5", "93.7"),
    ("Table 7", "AA-ResNet-50, CoordConv", "ablations/position_coordconv_resnet50", "77.5", "93.8"),
    ("Table 7", "AA-ResNet-50, relative", "imagenet/aa_resnet50", "77.7", "93.8"),
]
NAMED = {f"experiments/{row[2]}.py" for row in ROWS}
OF_OURS = {"experiments/cifar/weighted_and_pooled.py"}  # in no table
FIGURE_4 = {25: (77.7, 77.5), 50: (77.3, 76.6), 75: (76.7, 75.4), 100: (73.9, 71.1)}  # with position, without
LEDGER = {(title[:7], row.label): row for title, rows in bello.TABLES.items() for row in rows}
UNEXPLAINED = {"aa_wide_resnet28_10": 36.054, "mnasnet_140": 6.106}  # tests/analysis/test_ledger.py


def load(name, *overrides):
    """Return the unchecked config of `--config=experiments/... --config.FIELD=VALUE`."""
    line = ["test", f"--config={ROOT / name}", *overrides]
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values(line)
    return flag.value


def preprocessing(config, image_size, num_classes, channels=3):
    names = tuple(map(str, range(num_classes)))
    return Preprocessing(
        (image_size, image_size), channels, (0.5,) * channels, (0.25,) * channels, names, config.model.dtype, ""
    )


def stored_counts():
    """Return millions of parameters by model, from rows of the stored ledger without options, which a test checks."""
    table, counts = "", {}
    for line in (ROOT / "experiments" / "results" / "ledger.md").read_text().splitlines():
        table = line[4:11] if line.startswith("### ") else table
        cells = [cell.strip(" `") for cell in line.split("|")]
        row = LEDGER.get((table, cells[1])) if len(cells) > 3 else None
        if row and not row.options:
            counts[row.model] = float(cells[3])
        elif exact := re.match(r"\| `(\w+)` \|(?: \d+ \|)? ([\d,]+) \|", line):
            counts[exact[1]] = int(exact[2].replace(",", "")) / 1e6
    return counts


STORED = stored_counts()
NEUTRAL = {"dropout_rate", "batch_norm_momentum", "batch_norm_epsilon"}  # options that change no parameter


def counted(config):
    """Return millions of parameters of a resolved config's network on its own data."""
    if config.data.name in ("cifar100", "imagenet2012") and set(config.model.options) <= NEUTRAL:
        assert set(config.model.options) <= set(model_options(config.model.name))
        if config.model.name == "aw_se_resnet50":
            return STORED["se_resnet50"] + STORED["aw_resnet50"] - STORED["resnet50"]
        return STORED[config.model.name]  # building all of these takes minutes
    prepared = preprocessing(
        config,
        *{
            "cifar100": (32, 100, 3),
            "cifar10_jpeg": (32, 10, 3),
            "imagenet2012": (224, 1000, 3),
            "imagenette128": (64, 10, 3),
            "fashion_mnist_subset": (28, 10, 1),
        }[config.data.name],
    )
    made = nnx.eval_shape(lambda: build_model(config, make_task(config, prepared)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))) / 1e6


def docstring(name):
    return " ".join(ast.get_docstring(ast.parse((ROOT / name).read_text())).split())


def parameters_told(name):
    """Return millions of parameters of our network as the docstring of a config says."""
    found = re.search(r"Ours: not run yet\. ([\d.]+) M parameters", docstring(name))
    assert found, f"{name} does not tell our parameter count"
    return float(found[1])


@pytest.mark.few(12)
@pytest.mark.usefixtures("unchecked_shapes")  # a third faster on networks of this size
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_builds_and_tells_its_command(name):
    config = resolve(load(name))
    millions = counted(config)
    assert config.label and f"--config={name}" in docstring(name)
    if name in NAMED:
        assert parameters_told(name) == round(millions, 3)


def test_the_stored_ledger_has_the_papers_accuracies():
    table, stored = "", set()
    for line in (ROOT / "experiments" / "results" / "ledger.md").read_text().splitlines():
        table = line[4:11] if line.startswith("### ") else table
        cells = [cell.strip(" `") for cell in line.split("|")]
        stored |= {(table, cells[1], cell) for cell in cells[2:]}
    expected = {(*row, printed.accuracy) for row, printed in LEDGER.items()}
    expected |= {("Table 7", each.position, cell) for each in bello.TABLE_7 for cell in (each.resnet34, each.resnet50)}
    assert len(expected) == 42 and expected <= stored


def test_every_row_of_the_tables_has_a_config():
    assert len(ROWS) == 42 == len({row[:2] for row in ROWS})
    assert {row[:2] for row in ROWS if row[0] != "Table 7"} == set(LEDGER)
    assert {name for name in CONFIGS if name.split("/")[1] in ("cifar", "imagenet", "ablations")} == NAMED | OF_OURS


@pytest.mark.parametrize(("table", "row", "file", "top_1", "top_5"), ROWS, ids=lambda value: value[-25:])
def test_every_row(table, row, file, top_1, top_5):
    name = f"experiments/{file}.py"
    config = resolve(load(name))
    text = docstring(name)
    assert table in text.partition("python -m")[0], "the title names every table of the file"
    assert f"{top_1} % top-1" in text and (not top_5 or f"{top_5} % top-5" in text) and "Not said:" in text
    printed, accuracy = LEDGER.get((table, row)), ", ".join(filter(None, (top_1, top_5)))
    if printed is None:
        assert table == "Table 7" and config.model.name == f"aa_resnet{row[10:12]}"
        position = row[14:].removeprefix("2d ").lower()
        assert position == config.model.options.get("position", "relative")
        (of_table_7,) = [each for each in bello.TABLE_7 if each.position == position]
        assert getattr(of_table_7, f"resnet{row[10:12]}") == accuracy
        assert file == f"{of_table_7.configs}_resnet{row[10:12]}"
        return
    assert printed.accuracy == accuracy
    assert config.model.name == printed.model
    assert f"{printed.params} M parameters" in text and (not printed.gflops or f"{printed.gflops} GFLOPs" in text)
    told = parameters_told(name)
    if expected := UNEXPLAINED.get(config.model.name):
        assert told == expected
    elif printed.label != "MnasNet-1.25":  # 5.255486 M; the docstring has 5.255, the paper 5.26
        assert difference(told, printed.params) == "="


@pytest.mark.few
@pytest.mark.parametrize("percent", FIGURE_4)
def test_figure_4_without_position(percent):
    name = f"experiments/ablations/attention_ratio_{percent}.py"
    text = docstring(name)
    related, none = FIGURE_4[percent]
    assert f"{related} % top-1 with relative position, {none} % without, which `--config={name}:none`" in text
    config = resolve(load(f"{name}:none"))
    assert config.model.options["position"] == "none" and "no position" in config.label
    assert f"{counted(config):.3f} M without position" in text
    mistake = f"attention_ratio_{percent}.py knows relative and none, not 'sine'"
    with pytest.raises(flags.IllegalFlagValueError, match=mistake):
        load(f"{name}:sine")


WIDE, BASIC = dict(depth=10, widen_factor=1), dict(kind="basic", blocks=(1, 1, 1, 1))
TINY = {
    "cifar/wide_resnet28_10": (WIDE, 0.8 / 25),
    "cifar/aa_wide_resnet28_10": (dict(WIDE, num_heads=1), 0.2 / 25),
    "imagenet/resnet34": (BASIC, 1.024 / 5),
    "imagenet/aa_resnet34": (BASIC, 1.024 / 5),
    "imagenet/mnasnet_100": (dict(width=0.25), 0.064 / 5),
    "imagenet/aa_mnasnet_100": (dict(width=0.25), 0.032 / 5),
    "patchconvnet/s60": (dict(width=16, depth=1, layer_scale_init=0.1), 3e-3 / 5),
}


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("file", TINY)
def test_a_small_network_takes_a_step_of_the_recipe(file, rng, monkeypatch):
    """The run takes two steps in epochs of one step each: at learning rate 0, then at the rate of step 1."""
    monkeypatch.setattr(mnasnet, "GROUPS", tuple(group._replace(repeats=1) for group in mnasnet.GROUPS))
    options, expected = TINY[file]
    # On CPUs bfloat16 takes half as long again to compile.
    config = load(f"experiments/{file}.py", "--config.model.dtype=float32")
    config.model.options = {**config.model.options.to_dict(), **options}
    config = resolve(config)
    prepared = preprocessing(config, 32, 4)
    program = Program.of(config, prepared, Layout.of(config, jax.devices()[:1]), 1)
    params, state = program.params, program.new_state()
    step = jax.jit(make_train_step(program.task, program.losses, program.optimizer, config))
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (8, 32, 32, 3)), jnp.uint8),
        "label": jnp.asarray(np.arange(8) % 4, jnp.int32),
    }
    first = step(state, batch)
    second = step(first, batch)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(first.params), strict=True):
        np.testing.assert_array_equal(a, b)  # warm-up starts at 0
    assert np.isfinite(second.window["loss"]) and int(second.skipped) == 0
    part = "trunk" if "patchconvnet" in file else "stage3"
    for path, a in jax.tree_util.tree_leaves_with_path(params[part]):
        b = functools.reduce(lambda tree, key: tree[key.key], path, second.params[part])
        assert np.abs(np.asarray(b) - np.asarray(a)).max() > 0, jax.tree_util.keystr(path)
    rate = float(learning_rate(config.optimizer, config.epochs, 1)(1))
    assert rate == pytest.approx(expected, rel=1e-5)
    assert learning_rate_taken(config, first, second) == pytest.approx(rate, rel=2e-3)


def learning_rate_taken(config, before, after):
    """Return the learning rate that explains the step of the classifier's biases, which have no weight decay.

    It is their change divided by the direction that the optimiser's state gives.
    """
    moved = np.asarray(after.params["head"]["bias"], np.float64) - np.asarray(before.params["head"]["bias"])
    if config.optimizer.name == "sgd":
        ratios = -moved / np.asarray(optax.tree.get(after.opt_state, "trace")["head"]["bias"])
    elif config.optimizer.name == "lamb":  # parameters without weight decay have no trust ratio
        mean, square = (
            np.asarray(optax.tree.get(after.opt_state, name)["head"]["bias"], np.float64) for name in ("mu", "nu")
        )
        ratios = -moved / (mean / (1 - 0.9**2) / (np.sqrt(square / (1 - 0.999**2)) + 1e-6))
    else:  # no momentum yet; the mean squares give the gradient
        old, new = (
            np.asarray(optax.tree.get(state.opt_state, "nu")["head"]["bias"], np.float64) for state in (before, after)
        )
        gradients = np.sqrt((new - 0.9 * old) / 0.1)
        ratios = np.abs(moved) * np.sqrt(new + 1e-3) / gradients
    return ratios[np.argmax(np.abs(moved))]
