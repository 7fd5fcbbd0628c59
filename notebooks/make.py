"""Runs the notebooks and stores them with their outputs: `python notebooks/make.py [NAME...]`, without names all.

A notebook is what people edit. This command gives it its set-up cell (setup_cell.py) and its badge, runs it from
beginning to end in a new process and an empty folder, as the tests do with fewer steps, and stores what it shows, with
small pictures. With `--cells` it only writes set-up cells and badges, for example after the address of the repository
has changed. A notebook whose outputs would not be fit to be stored is left as it was; with `--runs=FOLDER` what it gave
is kept there, and is taken from there as long as the code is the same.
"""

import argparse
import base64
import hashlib
import io
import os
import platform
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
MOST_BYTES = 600_000
"""Of a stored notebook; GitHub and reviewers of changes read it as text."""
BRIEF = "AA_FLAX_NOTEBOOK_STEPS"
"""The environment variable by which notebooks train for that many steps only."""
_PATH = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|opt|var|content)/")
_MOST_COLORS = 20_000
"""Of a chart; what has more, or is smaller as JPEG, has photographs in it."""
_RUNGS = (
    (1400, 85, 256),
    (1200, 80, 256),
    (1000, 75, 256),
    (800, 65, 128),
    (700, 60, 64),
    (640, 55, 48),
    (640, 50, 32),
)
"""Width in pixels and JPEG's quality of pictures with photographs, colours of charts: the first that fits is taken."""
_SLOW_COMPILER = re.compile(
    r"^E\d{4} [^\n]*slow_operation_alarm[^\n]*\n\s*\*+\n\[Compiling module[^\n]*\n\*+\n?", re.MULTILINE
)
"""What XLA says where other programs leave it little of the processor."""
_SETUP = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""Metadata of the set-up cell: Colab and JupyterLab fold it."""
_WIDGET = "application/vnd.jupyter.widget-view+json"


def repository() -> str:
    """Return the address of the repository, as pyproject.toml has it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]


def badge(name: str) -> str:
    """Return the line that opens the notebook `name` on Colab."""
    place = repository().removeprefix("https://")
    address = f"https://colab.research.google.com/{place.replace('.com', '', 1)}/blob/main/notebooks/{name}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"


def give_cells(notebook: Any, name: str) -> None:
    """Write the badge into the first cell of a notebook, and make its second the set-up cell."""
    title = notebook.cells[0]
    lines = [line for line in title.source.splitlines() if "Open in Colab" not in line]
    title.source = "\n".join([lines[0], "", badge(name), *lines[1:]])
    title.source = re.sub(r"\n{3,}", "\n\n", title.source)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "setup"]
    setup = nbformat.v4.new_code_cell((FOLDER / "setup_cell.py").read_text("utf-8").rstrip("\n"), id="setup")
    setup.metadata = dict(_SETUP)
    setup.execution_count = 1 if any(cell.get("execution_count") for cell in notebook.cells) else None
    notebook.cells.insert(1, setup)


def execute(notebook: Any, work: Path, environment: Mapping[str, str], timeout: int) -> None:
    """Run all cells of a notebook in a new process, in an empty folder below `work`; its outputs are then in it.

    In these the name of that folder is "~".

    Args:
        notebook: as nbformat reads it; the set-up cell runs too, and finds the library already there.
        work: an empty folder, for all that the notebook and its process write.
        environment: variables besides those of this process.
        timeout: seconds for a cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    here, startup = work / "notebooks", work / "ipython" / "profile_default" / "startup"
    here.mkdir(parents=True)
    startup.mkdir(parents=True)
    (startup / "seldom.py").write_text("import gc\ngc.set_threshold(20_000, 20, 20)\n")  # tracing makes few cycles
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this interpreter's kernel, not the user's
    os.environ["JUPYTER_RUNTIME_DIR"] = str(work / "jupyter")
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    inherited |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_NUM_CPU_DEVICES": "1",
        "MPLBACKEND": "Agg",
        "TFDS_DATA_DIR": str(work / "tfds"),
        "IPYTHONDIR": str(work / "ipython"),
        "TMPDIR": str(work),
        "COLUMNS": "100",
    }
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    )
    client.execute(env=inherited | dict(environment))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts = output if "text" in output else output.get("data", {})
            for kind in ("text", "text/plain", "text/html"):
                if kind in texts:
                    texts[kind] = texts[kind].replace(str(work), "~")


def tidy(notebook: Any) -> None:
    """Leave of a run what is worth storing: small pictures, whole streams, no times of cells and no live widgets."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = dict(_SETUP) if cell.id == "setup" else {}
        if cell.cell_type == "code":
            cell.outputs = [each for each in _joined(cell.outputs) if _WIDGET not in each.get("data", {})]
            for output in cell.outputs:
                output.pop("transient", None)
                if "metadata" in output:
                    output.metadata = {}
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pictures = [Picture(data) for data in shown if "image/png" in data]
    for rung in _RUNGS:
        for picture in pictures:
            picture.store(*rung)
        if len(nbformat.writes(notebook).encode()) <= MOST_BYTES:
            return


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs, those of one stream that follow each other as one, without alarms about a busy machine.

    The lines of a training are a stream too, which otherwise are an output each.
    """
    joined: list[Any] = []
    for given in outputs:
        data = given.get("data", {})
        line = {*data} == {"text/plain", "text/html"} and data["text/html"].startswith("<pre")
        output = nbformat.v4.new_output("stream", text=data["text/plain"].rstrip("\n") + "\n") if line else given
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("output_type") == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.get("name") == "stderr":
            output.text = _SLOW_COMPILER.sub("", output.text)
    return [output for output in joined if output.get("text") != ""]


class Picture:
    """A picture among the outputs of a cell."""

    def __init__(self, data: Any) -> None:
        """Take the forms of an output, of which "image/png" is one."""
        self._data = data
        given = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGBA")
        self._picture = Image.new("RGB", given.size, "white")
        self._picture.paste(given, mask=given.getchannel("A"))
        self._is_chart = self._picture.getcolors(_MOST_COLORS) is not None
        if self._is_chart:
            self._is_chart = len(self._as_chart(256)) <= len(_encoded(self._picture, "JPEG", quality=85))

    def store(self, width: int, quality: int, colors: int) -> None:
        """Make it the one form of the output besides its words: PNG for a chart, JPEG where photographs are in it."""
        picture, data = self._picture, self._data
        for kind in ("image/png", "image/jpeg", "text/html"):  # the HTML of a picture is the picture once more
            data.pop(kind, None)
        if self._is_chart:
            data["image/png"] = self._as_chart(colors)
            return
        if picture.width > width:
            size = width, round(picture.height * width / picture.width)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        data["image/jpeg"] = _encoded(picture, "JPEG", quality=quality, optimize=True, progressive=True)

    def _as_chart(self, colors: int) -> str:
        palette = self._picture.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1)
        return _encoded(palette, "PNG", optimize=True)


def _encoded(picture: Image.Image, form: str, **options: Any) -> str:
    """Return a picture in a format of files, in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def digest(notebook: Any) -> str:
    """Return what changes with the code of a notebook; the set-up cell, which does nothing here, has no part in it."""
    code = [[cell.id, cell.source] for cell in notebook.cells if cell.cell_type == "code" and cell.id != "setup"]
    return hashlib.sha256(repr(code).encode()).hexdigest()[:16]


def made(notebook: Any) -> dict[str, str]:
    """Return how, when and from which code a notebook is made that is about to run."""
    import jax

    from aa_flax.runs.commit import commit

    return {
        "command": "python notebooks/make.py",
        "code": digest(notebook),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "jax": version("jax"),
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    }


def faults(notebook: Any) -> list[str]:
    """Return what is wrong with a notebook that is to be stored, a line each; nothing if it may be."""
    found = []
    text = nbformat.writes(notebook)
    if len(text.encode()) > MOST_BYTES:
        found.append(f"{len(text.encode()):,} bytes, of at most {MOST_BYTES:,}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != [*range(1, len(code) + 1)]:
        found.append("its cells were not run in order, each once")
    if notebook.metadata.get("made", {}).get("code") != digest(notebook):
        found.append("its code is not the code that made its outputs: run python notebooks/make.py")
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    if not {"image/png", "image/jpeg"} & kinds:
        found.append("no picture")
    for cell in notebook.cells:
        if _PATH.search(cell.source):
            found.append(f"{cell.id}: a path of some machine in its source")
        for output in cell.get("outputs", []):
            words = "\n".join([output.get("text", ""), *_words(output.get("data", {}))])
            if output.output_type == "error" or output.get("name") == "stderr":
                said = (words or output.get("evalue", "")).strip().splitlines()
                found.append(f"{cell.id}: an error or a warning: {said[0] if said else ''}")
            elif re.search(r"Traceback \(most recent|Warning:", words):
                found.append(f"{cell.id}: an error or a warning among its words")
            if path := _PATH.search(words):
                found.append(f"{cell.id}: a path of some machine: {words[path.start() :][:60]!r}")
    return found


def _words(data: Mapping[str, Any]) -> list[str]:
    """Return the texts of an output."""
    return [value for kind, value in data.items() if kind.startswith("text/") and isinstance(value, str)]


def executed(notebook: Any, name: str, runs: Path | None) -> Any:
    """Return a notebook with the outputs of its code: of a run that is kept in the folder `runs`, or of a new one."""
    kept = runs / f"{name}.ipynb" if runs else None
    if kept and kept.exists() and (before := nbformat.read(kept, as_version=4)).metadata.made.code == digest(notebook):
        outputs = {cell.id: cell for cell in before.cells}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = outputs[cell.id].outputs, outputs[cell.id].execution_count
        notebook.metadata["made"] = before.metadata.made
        return notebook
    origin, start = made(notebook), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aa_flax-") as work:
        execute(notebook, Path(work), {}, timeout=7200)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    notebook.metadata["made"] = origin
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, kept)
    return notebook


def main() -> None:
    """Make the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a notebook, without .ipynb; without any, all")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="of executed notebooks, to keep and to take them")
    parser.add_argument("--cells", action="store_true", help="only write set-up cells and badges, run nothing")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    refused = []
    for name in given.names or sorted(file.stem for file in FOLDER.glob("*.ipynb")):
        file = FOLDER / f"{name}.ipynb"
        notebook = nbformat.read(file, as_version=4)
        give_cells(notebook, name)
        if not given.cells:
            notebook = executed(notebook, name, given.runs)
            tidy(notebook)
            if found := faults(notebook):
                refused.append(name)
                print(f"{name}: not stored\n  " + "\n  ".join(found), file=sys.stderr)
                continue
            print(f"{name}: {len(nbformat.writes(notebook).encode()):,} bytes", flush=True)
        nbformat.write(notebook, file)
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
