"""Tests of the order of rooms, the library's folders: no import goes up or in a circle."""

import ast
import re
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "aa_flax"
ROOMS = (
    "ops",
    "layers",
    "models",
    "weights",
    "config",
    "data",
    "evaluation",
    "drawing",
    "runs",
    "tasks",
    "training",
    "inference",
    "analysis",
    "finetuning",
)
"""Rooms in order: each may import from those before it."""
WITHOUT_NETWORKS = ("config", "evaluation", "data", "runs")
"""Rooms that must not import networks or their operations."""
LEAVES = ("alive", "json_values", "literal", "precision", "private_names", "root_logger", "typed")


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path):
    """Yield the modules of the library that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


GRAPH = {module: {*imported(path)} - {module} for module, path in MODULES.items()}


def room(module):
    """Return the room of a module; "" for commands, which may import everything."""
    parts = module.split(".")
    return "" if len(parts) == 1 or parts[-1] == "__main__" or (len(parts) == 2 and parts[1] not in ROOMS) else parts[1]


def test_every_folder_is_a_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {*ROOMS}


def test_imports_run_one_way():
    assert len(GRAPH) > 150 and "aa_flax.training.loop" in GRAPH
    up = []
    for module, others in GRAPH.items():
        here = room(module)
        for other in others if here else ():
            there = room(other)
            allowed = other in ("aa_flax", *(f"aa_flax.{leaf}" for leaf in LEAVES))
            if there:
                allowed = ROOMS.index(there) <= ROOMS.index(here)
                allowed &= here not in WITHOUT_NETWORKS or there not in ("ops", "layers", "models", "weights")
            if not allowed:
                up.append(f"{module} imports {other}")
    assert not up


def test_no_import_runs_in_a_circle():
    graph = {module: {other for other in others if other != "aa_flax"} for module, others in GRAPH.items()}
    # A package may re-export names of its own modules.
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            graph[module] = {other for other in graph[module] if not other.startswith(f"{module}.")}
    TopologicalSorter(graph).prepare()


KNOW_NO_TARGET = (
    "training",
    "runs",
    "inference/predictor.py",
    "inference/loading.py",
    *(f"{path.stem}.py" for path in PACKAGE.glob("*.py")),
)
OF_A_CLASSIFIER = re.compile(r"logits?|accurac(y|ies)|(num_)?class(es|_names)|classif\w+|labels?")


def words_of(path):
    """Yield the names, and the words of comments and strings, each with its line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (
                tokenize.NAME,
                tokenize.COMMENT,
                tokenize.STRING,
                getattr(tokenize, "FSTRING_MIDDLE", -1),
            ):
                yield from ((word, token.start[0]) for word in re.findall(r"[A-Za-z_]+", token.string))


def test_what_steps_and_commands_name_no_target():
    """Everything that differs between tasks is in `tasks`, so that a new task changes no other room."""
    named, files = [], [path for name in KNOW_NO_TARGET for path in sorted((PACKAGE / name).rglob("*.py"))]
    files += [PACKAGE / name for name in KNOW_NO_TARGET if name.endswith(".py")]
    files += [PACKAGE / "analysis" / f"{name}.py" for name in ("plan", "plan_report", "programs", "sweep", "slices")]
    assert len(files) > 40
    for path in files:
        text = path.read_text().splitlines()
        for word, line in words_of(path):
            is_a_name_of_tables = "label" in word and re.search(r"\.label\b|label=|for label|\(label,", text[line - 1])
            if OF_A_CLASSIFIER.fullmatch(word) and not is_a_name_of_tables:
                named.append(f"{path.relative_to(PACKAGE)}:{line}: {word}")
    assert not named
