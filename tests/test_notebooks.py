"""Tests that the notebooks are stored without outputs and that every cell runs."""

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[notebook.stem for notebook in NOTEBOOKS])


def test_there_are_notebooks():
    assert NOTEBOOKS


@notebooks
def test_is_stripped(notebook):
    content = json.loads(notebook.read_text())
    assert content["nbformat"] == 4
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    assert content["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert content["metadata"]["language_info"] == {"name": "python"}
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    assert not [name for name in names if not re.fullmatch(r"[a-z][a-z0-9-]+", name)], "ids that say nothing"
    for cell in content["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", "".join(cell["source"])), cell["id"]


@pytest.mark.thorough
@notebooks
def test_executes(notebook, tmp_path, monkeypatch):
    import nbclient  # here, so that its warnings at import affect this test alone
    import nbformat

    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # use this interpreter's kernel, not the user's
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_NUM_CPU_DEVICES": "1",
        "AA_FLAX_NOTEBOOK_STEPS": "6",  # networks then hardly learn before they are drawn
        "MPLBACKEND": "Agg",
        "TFDS_DATA_DIR": str(tmp_path / "tfds"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "TMPDIR": str(tmp_path),
    }
    folder, startup = tmp_path / "notebooks", tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir()
    startup.mkdir(parents=True)
    (startup / "seldom.py").write_text("import gc\ngc.set_threshold(20_000, 20, 20)\n")  # as in the tests themselves
    executed = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(
        executed, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture was drawn"
