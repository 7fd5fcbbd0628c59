"""Tests of configs that are given by name."""

import sys
from pathlib import Path

import pytest
from absl import flags

from aa_flax.config import command_line, named
from aa_flax.config.named import UnknownConfig, config_names, located, named_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def config(epochs="3", imports=""):
    return f"{imports}\nfrom aa_flax.config.schema import default_config\n\n\ndef get_config(word=''):\n" + (
        f"    config = default_config()\n    config.epochs, config.label = {epochs}, word\n    return config\n"
    )


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return the root of a small checkout, which has a config that imports from two folders of its experiments."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
        monkeypatch.delitem(sys.modules, name)
    root = tmp_path / "checkout"
    imports = "from experiments.shared import EPOCHS\nfrom experiments.coco.parts import MORE"
    for file, text in {
        "aa_flax/__init__.py": "",
        "experiments/quickstart.py": config(),
        "experiments/shared.py": "EPOCHS = 4\n",
        "experiments/coco/parts.py": "MORE = 5\n",
        "experiments/coco/resnet.py": config("EPOCHS + MORE", imports),
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    yield root
    for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
        del sys.modules[name]


def loaded(monkeypatch, *words):
    """Return the config of a command line."""
    monkeypatch.setattr(sys, "argv", ["train", *words])
    values = flags.FlagValues()
    command_line.define_config(values)
    command_line._parse(values, "", dict, sys.argv)
    return values.config


def test_every_config_of_the_checkout_has_a_name():
    names = config_names()
    assert {"quickstart", "imagenet/aa_resnet50", "bccd/subset", "patchconvnet/imagenet21k"} <= {*names}
    assert names == sorted(names) and len(names) > 70
    assert not {"packed", "bccd/networks", "compare", "imagenette/kills"} & {*names}
    assert located("quickstart:plain") == f"{ROOT}/experiments/quickstart.py:plain"


def test_the_checkout_around_the_working_directory_comes_first(checkout, monkeypatch):
    monkeypatch.chdir(checkout / "experiments" / "coco")
    assert config_names() == ["coco/resnet", "quickstart"]
    monkeypatch.chdir(checkout.parent)
    assert named.experiments() == ROOT / "experiments"


def test_an_installed_package_has_them_inside(checkout, monkeypatch):
    inside = checkout.parent / "site-packages" / "aa_flax"
    inside.parent.mkdir()
    (checkout / "experiments").rename(checkout / "aa_flax" / "experiments")
    (checkout / "aa_flax").rename(inside)
    monkeypatch.setattr(named, "_PACKAGE", inside)
    monkeypatch.chdir(checkout)  # no checkout any more
    assert config_names() == ["coco/resnet", "quickstart"]
    assert loaded(monkeypatch, "--config=coco/resnet").epochs == 9


@pytest.mark.parametrize("hidden_by", ["nothing", "a folder", "a package"])
def test_a_config_imports_from_its_own_experiments(checkout, monkeypatch, hidden_by):
    other = checkout.parent / "other" / "experiments"
    other.mkdir(parents=True)
    (other / "shared.py").write_text("EPOCHS = 100\n")
    (other / "mine.py").write_text("OURS = 7\n")
    if hidden_by != "nothing":
        sys.path.insert(0, str(other.parent))
    if hidden_by == "a package":
        (other / "__init__.py").touch()
    monkeypatch.chdir(checkout)
    assert loaded(monkeypatch, "--config=coco/resnet").epochs == 9
    if hidden_by != "nothing":  # what is not theirs is still found
        from experiments import mine

        assert mine.OURS == 7
    monkeypatch.chdir(checkout.parent)
    assert loaded(monkeypatch, "--config=checkout/experiments/coco/resnet.py").epochs == 9


def test_words_of_the_command_line(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    for words in (
        ["--config=quickstart:plain"],
        ["--config", "quickstart:plain"],
        ["-config=quickstart:plain"],
        ["--config=experiments/quickstart.py:plain"],
        ["--config=./experiments/quickstart.py:plain", "--config.epochs=3"],
    ):
        found = loaded(monkeypatch, *words)
        assert (found.epochs, found.label) == (3, "plain")
    monkeypatch.setenv("HOME", str(checkout))
    assert loaded(monkeypatch, "--config=~/experiments/quickstart.py", "--config.epochs=5").epochs == 5


def test_a_file_without_a_suffix_and_a_name_that_a_folder_has(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    Path("quickstart").mkdir()
    Path("mine").write_text(config("8"))
    assert loaded(monkeypatch, "--config=quickstart").epochs == 3
    assert located("mine") == "mine"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("aa_resnet50", "imagenet/aa_resnet50"),
        ("imagnet/aa_resnet50", "imagenet/aa_resnet50"),
        ("imagenet/aa_resnet5", "imagenet/aa_resnet50"),
        ("quickstat:plain", "quickstart"),
        ("quickstart.py", "quickstart"),
        ("experiments/cifar/wide_resnet28_10.py", "cifar/wide_resnet28_10"),
        ("subst", "bccd/subset"),
        ("../experiments/quickstart", "quickstart"),
        ("zzz", ""),
    ],
)
def test_what_is_no_config_is_told_with_near_names(given, meant, monkeypatch, tmp_path):
    monkeypatch.setattr(named, "experiments", lambda: ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownConfig) as error:
        located(given)
    told = str(error.value)
    assert told.startswith(f"{given.partition(':')[0]}: no such file, and no config of that name; ")
    assert told.endswith("`aa-flax configs` lists them")
    near = told.partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert near[0] == meant and len(near) <= 3


def test_a_colon_in_the_path_of_a_checkout_is_named(checkout, monkeypatch):
    moved = checkout.parent / "12:00"
    checkout.rename(moved)
    monkeypatch.chdir(moved)
    with pytest.raises(UnknownConfig, match="12:00/experiments/quickstart.py: a colon divides FILE:ARGUMENT"):
        located("quickstart")


def test_python_has_the_config_of_a_command(monkeypatch):
    for given in ("quickstart", "bccd/subset:plain"):
        assert named_config(given).to_dict() == loaded(monkeypatch, f"--config={given}").to_dict()
    assert named_config("bccd/subset:plain").model.name == "retinanet_resnet18"
    with pytest.raises(UnknownConfig, match="did you mean quickstart"):
        named_config("quikstart")
