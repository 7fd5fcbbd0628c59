"""Tests of the package as people install it: built, in an environment of its own, used in an empty folder."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from archives import unpack
from PIL import Image

from aa_flax.config.named import config_names

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.thorough


def done(*command, cwd):
    """Run a command without this checkout on its path, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["JAX_NUM_CPU_DEVICES"] = "1"
    command = [*map(str, command)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def built(kind, source, folder):
    """Build a "wheel" or an "sdist" of a source tree and return its file."""
    done(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel that is built from the sdist, as an index would serve both."""
    folder = tmp_path_factory.mktemp("built")
    unpack(built("sdist", ROOT, folder), folder)
    return built("wheel", next(path for path in folder.iterdir() if path.is_dir()), folder)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return an environment with the wheel, an empty folder to work in, and a function that runs a program there.

    What the package depends on comes from the environment of the tests.
    """
    environment = tmp_path_factory.mktemp("environment")
    empty = tmp_path_factory.mktemp("empty")
    venv.create(environment, with_pip=False, symlinks=True)
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    (packages / "requirements.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = environment / "bin" / "python"
    uv = shutil.which("uv")
    installer = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "--python", python, "install"]
    done(*installer, "--no-deps", *(["--python", python] if uv else ["--no-index"]), wheel, cwd=empty)

    def run(program, *words):
        return done(environment / "bin" / program, *words, cwd=empty)

    return SimpleNamespace(packages=packages, empty=empty, run=run)


def test_the_wheel_has_the_configs_and_no_script_measurement_or_result(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("aa_flax/experiments/")}
    configs = {f"aa_flax/experiments/{name}.py" for name in config_names()}
    needed = set()
    for name in configs:
        for node in ast.walk(ast.parse((ROOT / name.removeprefix("aa_flax/")).read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            needed |= {f"aa_flax/{each.replace('.', '/')}.py" for each in modules if each.startswith("experiments.")}
    assert {"aa_flax/experiments/packed.py", "aa_flax/experiments/bccd/networks.py"} <= needed
    assert inside == configs | needed | {"aa_flax/experiments/camvid/classes.txt"}


def test_what_the_package_says_of_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert "aa_flax/py.typed" in names and "aa_flax/data/sets/embedded/LICENSE" in names
    urls = dict(each.split(", ") for each in about.get_all("Project-URL"))
    assert about["Author"] and {"Repository", "Documentation", "Changelog"} <= urls.keys()
    text = about.get_payload(decode=True).decode()
    assert about["Description-Content-Type"] == "text/markdown" and text.startswith("# aa_flax\n")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    pictures = re.findall(r"!\[[^\]]*\]\((\S+?)\)", text)
    raw = urls["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    assert {f"{raw}/main/"} == {picture[: len(f"{raw}/main/")] for picture in pictures if picture != badge}
    files = [target.split("#")[0] for target in targets]
    files = [file.removeprefix(f"{urls['Repository']}/blob/main/").removeprefix(f"{raw}/main/") for file in files]
    ours = [file for file in files if file and not file.startswith("https://")]
    assert len(ours) > 40 and all((ROOT / file).exists() for file in ours)


def test_every_config_of_the_wheel_loads_in_an_empty_folder(installed):
    assert installed.run("aa-flax", "configs").splitlines() == config_names()
    code = (
        "import json, sys, warnings; from pathlib import Path; import aa_flax\n"
        "from absl import flags; from aa_flax.config import command_line, named\n"
        "warnings.simplefilter('ignore'); labels = {}\n"
        "for name in named.config_names():\n"
        "    values = flags.FlagValues(); sys.argv = ['train', f'--config={name}']\n"
        "    command_line.define_config(values); command_line._parse(values, '', dict, sys.argv)\n"
        "    labels[name] = values.config.label\n"
        "print(json.dumps([aa_flax.__file__, labels]))"
    )
    file, labels = json.loads(installed.run("python", "-c", code))
    assert Path(file).is_relative_to(installed.packages)
    assert [*labels] == config_names() and all(labels.values())
    assert labels["quickstart"] == "AA-WRN-10-1"


def test_a_network_is_trained_and_used_in_an_empty_folder(installed, rng):
    assert re.fullmatch(r"aa_flax \d+\.\d+\.\d+\S*\n", installed.run("aa-flax", "--version"))
    small = ["--config.epochs=1", "--config.data.train_split=train[:128]", "--config.data.eval_split=test[:50]"]
    small += ["--config.eval_batch_size=50", "--config.data.data_dir=data"]
    told = installed.run("aa-flax", "train", "--config=quickstart:plain", "--workdir=run", *small)
    result = json.loads(told.splitlines()[-1])
    assert result["finished"] and result["label"] == "WRN-10-1" and result["examples"] == 50
    Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)).save(installed.empty / "photo.png")
    lines = installed.run("aa-flax", "predict", "--workdir=run", "--top=2", "photo.png").splitlines()
    assert lines[0] == "photo.png" and len(lines) == 3
    code = "import aa_flax; classifier = aa_flax.load('run'); print(classifier('photo.png'))"
    assert lines[1].strip() in installed.run("python", "-c", code)
    for kind, level in (("dark", 40), ("light", 200)):
        (installed.empty / "mine" / kind).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(level - 30, level + 30, (32, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(installed.empty / "mine" / kind / f"{number}.jpg")
    told = installed.run(
        "aa-flax", "finetune", "mine", "--from=run", "--config.epochs=2", "--config.data.data_dir=data"
    )
    result = json.loads(told.splitlines()[-1])
    assert result["finished"] and result["examples"] == 2 and "new: head" in told
    assert "light" in installed.run("aa-flax", "predict", "--workdir=runs/mine", "mine/light/1.jpg")
    assert {path.name for path in installed.empty.iterdir()} == {"data", "run", "runs", "photo.png", "mine"}


def test_a_command_describes_itself(installed):
    assert "--topology" in installed.run("aa-flax", "plan", "--help")
