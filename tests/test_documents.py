"""Tests that the targets of documents exist: files, headings, modules, config fields, names of the library."""

import ast
import importlib
import importlib.util
import itertools
import re
from pathlib import Path

import pytest

from aa_flax.config.schema import field_names
from aa_flax.tasks import option_schemas

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in itertools.chain(
        ROOT.glob("*.md"), *((ROOT / f).rglob("*.md") for f in ("aa_flax", "experiments", "tests"))
    )
)
TEXTS = {path: (ROOT / path).read_text() for path in DOCUMENTS}
WRITTEN = [path for path in DOCUMENTS if "results" not in path.parts or path.name == "README.md"]
"""Documents that people write; those that a command writes keep the text of their day."""

in_each = pytest.mark.parametrize("document", DOCUMENTS, ids=str)
in_each_written = pytest.mark.parametrize("document", WRITTEN, ids=str)


def prose(text):
    """Return a document without its code blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Return the anchors that GitHub gives the headings of a document."""
    found = []
    for heading in re.findall(r"^#+ +(.+)$", prose(text), re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def links(text):
    """Return the targets of links and pictures, in tables too, without web addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def commands(text):
    """Return the modules that a document runs by `python -m`, and the files after `python`, `bash` and `--config`."""
    flat = re.sub(r"(?:\\?\s)+", " ", text)  # a command may be broken over lines
    modules = re.findall(r"python -m ([a-zA-Z_]\w*(?:\.\w+)*)", flat)
    files = re.findall(r"(?:python|bash|--config[= ]) ?((?:aa_flax|experiments|tests)/[\w/.-]+\.\w+)", flat)
    return modules, files


def test_the_patterns_find_what_is_there():
    readme = TEXTS[Path("README.md")]
    assert "experiments/results/patchconvnet_attention.png" in links(readme) and "aa_flax/ops/paper.py" in links(readme)
    assert anchors("# A *b* (c), `d_e`\n```\n# no\n```\n## [F](g) — 2") == ["a-b-c-d_e", "f--2"]
    modules, files = commands(
        "`python -m a.b_c --x`, python\n-m no; bash tests/run.sh; python -m \\\n d.e --config=tests/x.py:y"
    )
    assert modules == ["a.b_c", "no", "d.e"] and files == ["tests/run.sh", "tests/x.py"]
    assert {*DOCUMENTS} >= {Path("README.md"), Path("experiments/results/ledger.md"), Path("aa_flax/README.md")}


def test_the_readme_is_a_page():
    assert len(TEXTS[Path("README.md")].splitlines()) <= 200


@in_each
def test_links_lead_somewhere(document):
    broken = []
    for link in links(TEXTS[document]):
        file, _, anchor = link.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        there = path.exists() and path.resolve().is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(path.read_text())):
            broken.append(link)
    assert not broken


@in_each_written
def test_commands_exist(document):
    modules, files = commands(TEXTS[document])
    # A word in capitals is a placeholder.
    named = [name for name in (*modules, *files) if not any(part.isupper() for part in re.split(r"[./]", name))]
    assert not [
        name for name in named if not ((ROOT / name).is_file() if "/" in name else importlib.util.find_spec(name))
    ]


@in_each_written
def test_fields_of_the_config_exist(document):
    options = (name for schema in option_schemas().values() for name in schema.__dataclass_fields__)
    known = {*field_names(), *(f"task.options.{name}" for name in options)}
    named = {*re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)", TEXTS[document])}
    # The changelog may name fields that have moved.
    if document.name != "CHANGELOG.md":
        named |= {*re.findall(r"`((?:data|optimizer|parallel|task)\.[a-z_]+(?:\.[a-z_]+)*)\b", TEXTS[document])}
    named = {name for name in named if not name.startswith("model.options.") and not name.endswith((".py", ".md"))}
    assert not named - known


@in_each_written
def test_python_blocks_import_what_exists(document):
    for block in re.findall(r"^```python\n(.*?)^```", TEXTS[document], re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    # A name of a package may be a module of it that was not imported yet.
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
