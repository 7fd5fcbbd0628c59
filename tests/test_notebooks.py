"""Tests that the notebooks run, are stored with what they show, and set themselves up wherever they are opened."""

import ast
import base64
import importlib.util
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[notebook.stem for notebook in NOTEBOOKS])


def module(file):
    """Import a file of notebooks/, which is no package."""
    specification = importlib.util.spec_from_file_location(f"notebooks_{file.stem}", file)
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    return found


make = module(ROOT / "notebooks" / "make.py")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@notebooks
def test_is_stored_with_what_its_code_shows(notebook):
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert set(content.metadata) == {"kernelspec", "language_info", "made"}
    assert content.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert content.metadata.language_info == {"name": "python"}
    names = [cell.id for cell in content.cells]
    assert not [name for name in names if not re.fullmatch(r"[a-z][a-z0-9-]+", name)], "ids that say nothing"
    assert not [cell.id for cell in content.cells if cell.metadata and cell.id != "setup"]
    assert make.faults(content) == []


@notebooks
def test_has_its_badge_and_the_set_up_cell(notebook):
    content = nbformat.read(notebook, as_version=4)
    before = nbformat.writes(content)
    make.give_cells(content, notebook.stem)
    assert nbformat.writes(content) == before, "run python notebooks/make.py --cells"
    owner_and_name = project()["urls"]["Repository"].removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/{notebook.name})"
    assert address in content.cells[0].source
    assert address in (ROOT / "README.md").read_text()


@notebooks
def test_its_links_lead_somewhere(notebook):
    words = "\n".join(
        cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown"
    )
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", words) if not re.match(r"[a-z]+:", target)]
    assert not [target for target in targets if not (notebook.parent / target.partition("#")[0]).exists()]


def written(code, *outputs, count=1):
    """Return a notebook of one cell, as if it had been made."""
    cell = nbformat.v4.new_code_cell(code, id="cell", outputs=[*outputs], execution_count=count)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["made"] = {"code": make.digest(notebook)}
    return notebook


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(**data):
    return nbformat.v4.new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})


def test_faults_of_a_notebook_are_found(rng):
    picture = shown(image_png=png(rng.integers(0, 255, (5, 7, 3), np.uint8)))
    stream = nbformat.v4.new_output
    assert make.faults(written("x = 1", picture)) == []
    edited = written("x = 1", picture)
    edited.cells[0].source = "x = 2"
    other = {
        "the code that made": edited,
        "run in order": written("x = 1", picture, count=3),
        "no picture": written("x = 1"),
        "in its source": written("open('/home/me/x')", picture),
        "some machine: '/tmp/aa": written("x", picture, stream("stream", text="saved to /tmp/aa/x")),
        "warning: odd": written("x", picture, stream("stream", name="stderr", text="odd\n")),
        "among its words": written("x", picture, stream("stream", text="a.py:1: UserWarning: odd")),
        "warning: 1 / 0": written("x", picture, stream("error", evalue="1 / 0")),
        "of at most": written("x", picture, stream("stream", text="x" * make.MOST_BYTES)),
    }
    for words, notebook in other.items():
        (fault,) = make.faults(notebook)
        assert words in fault


SLOW = """E1128 09:48:06.483938   25903 slow_operation_alarm.cc:73]
********************************
[Compiling module jit_train_step for CPU] Very slow compile? Run with XLA_FLAGS=--xla_dump_to=/tmp/foo
********************************
E1128 09:48:26.615938   25687 slow_operation_alarm.cc:140] The operation took 2m20.20495897s

********************************
[Compiling module jit_train_step for CPU] Very slow compile? Run with XLA_FLAGS=--xla_dump_to=/tmp/foo
********************************
"""


def test_outputs_are_tidied():
    outputs = [
        nbformat.v4.new_output("stream", text="a\n"),
        nbformat.v4.new_output("stream", text="b\n"),
        nbformat.v4.new_output("display_data", {"text/plain": "epoch 1\n", "text/html": "<pre>epoch 1</pre>"}),
        nbformat.v4.new_output("stream", name="stderr", text=SLOW),
        nbformat.v4.new_output("display_data", {make._WIDGET: {}, "text/plain": "VBox()"}),
    ]
    notebook = written("x", *outputs)
    notebook.metadata["widgets"] = {}
    notebook.cells[0].metadata = {"execution": {"iopub.execute_input": "2026-01-01"}}
    make.tidy(notebook)
    (stream,) = notebook.cells[0].outputs
    assert stream.text == "a\nb\nepoch 1\n" and not notebook.cells[0].metadata and "widgets" not in notebook.metadata


def stored(*pictures):
    """Return the bytes of a notebook with some pictures, and each of them as it is stored."""
    given = [shown(image_png=png(pixels), image_jpeg="x", text_html="<img>") for pixels in pictures]
    notebook = written("x", *given)
    make.tidy(notebook)
    found = []
    for output in notebook.cells[0].outputs:
        ((kind, encoded),) = output.data.items()
        found.append((kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), int)))
    return len(nbformat.writes(notebook)), found


def test_pictures_are_stored_small(rng, monkeypatch):
    monkeypatch.setattr(make, "_RUNGS", ((350, 85, 256), (200, 60, 16)))
    monkeypatch.setattr(make, "MOST_BYTES", 30_000)
    chart = np.full((240, 310, 3), 255, np.uint8)
    chart[20:40, 10:280] = rng.integers(0, 255, 3)
    photograph = Image.fromarray(rng.integers(0, 255, (15, 23, 3), np.uint8)).resize((460, 300))
    size, ((png_form, plain), (jpeg_form, natural)) = stored(chart, np.asarray(photograph))
    assert (png_form, jpeg_form) == ("image/png", "image/jpeg") and size < make.MOST_BYTES
    np.testing.assert_array_equal(plain, chart)
    assert natural.shape == (228, 350, 3)  # the largest that is stored
    large = np.asarray(photograph.resize((350, 228), Image.Resampling.LANCZOS), int)
    assert np.abs(natural - large).mean() < 4
    size, several = stored(*[np.asarray(photograph)] * 4)
    assert size < make.MOST_BYTES and several[0][1].shape == (130, 200, 3), "many are stored smaller, so that all fit"


SETUP = (ROOT / "notebooks" / "setup_cell.py").read_text()


def needed(installed, gpu=False, tpu=False):
    """Call the function of the set-up cell alone."""
    body = ast.parse(SETUP).body
    names: dict = {}
    chosen = [node for node in body if isinstance(node, ast.FunctionDef | ast.Assign)]
    exec(compile(ast.Module(chosen, []), "setup_cell.py", "exec"), names)
    library, *others = names["needed"](installed, gpu, tpu)
    assert library == f"aa_flax[detection] @ git+{project()['urls']['Repository']}"
    return others


@pytest.mark.parametrize(
    "installed, hardware, expected",
    [
        ({}, {}, ["jax>={}"]),
        ({}, dict(gpu=True), ["jax[cuda12]>={}"]),
        ({}, dict(tpu=True), ["jax[tpu]>={}"]),
        ({"jax": "0.7.2", "libtpu": "0.0.20"}, dict(tpu=True), ["jax[tpu]>={}"]),
        ({"jax": "0.10.1", "jax-cuda12-plugin": "0.10.1"}, dict(gpu=True), ["jax[cuda12]>={}"]),
        ({"jax": "0.10.1", "jax-cuda13-plugin": "0.10.1"}, dict(gpu=True), ["jax[cuda13]>={}"]),
        ({"jax": "0.10.2", "jaxlib": "0.10.2"}, dict(gpu=True), ["jax==0.10.2", "jaxlib==0.10.2"]),
        ({"jax": "0.12.0.1", "jaxlib": "0.12.0.1", "libtpu": "0.0.51"}, {}, ["jax==0.12.0.1", "jaxlib==0.12.0.1"]),
        ({"jax": "1.0", "jaxlib": "1.0"}, {}, ["jax==1.0", "jaxlib==1.0"]),
    ],
)
def test_the_set_up_keeps_a_jax_that_is_new_enough_and_else_asks_for_that_of_the_accelerator(
    installed, hardware, expected
):
    (oldest,) = [each.removeprefix("jax>=") for each in project()["dependencies"] if each.startswith("jax>=")]
    assert needed(installed, **hardware) == [each.format(oldest) for each in expected]


@pytest.mark.parametrize("where", ["checkout", "installed", "nothing"])
def test_the_set_up_installs_only_where_there_is_no_library(where, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    if where == "checkout":
        (tmp_path / "aa_flax").mkdir()
        (tmp_path / "aa_flax" / "__init__.py").touch()
    if where != "installed":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(compile(SETUP, "setup_cell.py", "exec"), {})
    assert (sys.path[0] == str(tmp_path)) == (where == "checkout")
    assert len(commands) == (where == "nothing")
    for command in commands:
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        assert any(each.startswith("jax==") for each in command), "this environment's jax is to stay"


SHORT = ("your_photograph",)  # what the others call has tests of its own


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(file, id=file.stem, marks=pytest.mark.thorough if file.stem in SHORT else pytest.mark.slow)
        for file in NOTEBOOKS
    ],
)
def test_executes(notebook, tmp_path):
    executed = nbformat.read(notebook, as_version=4)
    make.execute(executed, tmp_path, {make.BRIEF: "6"}, timeout=300)  # networks then hardly learn before they are drawn
    make.tidy(executed)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any({"image/png", "image/jpeg"} & {*output.get("data", {})} for output in outputs), "no picture was drawn"
    assert not [output for output in outputs if output.get("name") == "stderr"]
