"""Configs by name: `--config=imagenet/aa_resnet50` is experiments/imagenet/aa_resnet50.py.

The folder is that of the checkout in which a command runs, else of the library's own checkout; an installed package has
the same configs inside it. Only the standard library is imported, because shells ask for the names at each TAB.
"""

import contextlib
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = Path(__file__).parents[1]


class UnknownConfig(LookupError):
    """What is given for `--config` is neither a file nor the name of a config."""


def experiments() -> Path:
    """Return the folder of the configs: of the checkout around the working directory, else of this library."""
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents, _PACKAGE.parent) if _is_checkout(folder))
    return next(checkouts, _PACKAGE) / "experiments"


def _is_checkout(folder: Path) -> bool:
    return (folder / "aa_flax" / "__init__.py").is_file() and _is_experiments(folder / "experiments")


def _is_experiments(folder: Path) -> bool:
    return (folder / "quickstart.py").is_file()


def config_names() -> list[str]:
    """Return the names of all configs, the files of `experiments()` that define `get_config`, in alphabetical order."""
    folder = experiments()
    files = [file for file in folder.rglob("*.py") if "\ndef get_config(" in file.read_text("utf-8")]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def located(given: str) -> str:
    """Return NAME_OR_FILE[:ARGUMENT] as FILE[:ARGUMENT].

    Raises:
        UnknownConfig: there is neither a config of that name nor such a file; the message has the nearest names.
    """
    word, colon, argument = given.partition(":")
    path = Path(word).expanduser()
    if path.suffix != ".py" or not path.is_file():
        names = config_names()
        if word in names:
            path = experiments() / f"{word}.py"
            if ":" in str(path):
                raise UnknownConfig(f"{path}: a colon divides FILE:ARGUMENT, so the path of a config may have none")
        elif not path.is_file():
            near = " or ".join(_near(word, names))
            asked = f"did you mean {near}? " if near else ""
            raise UnknownConfig(
                f"{word}: no such file, and no config of that name; {asked}`aa-flax configs` lists them"
            )
    return f"{path}{colon}{argument}"


def named_config(given: str) -> Any:
    """Return the config that a command has by `--config`, to be changed and given to `train`.

    Args:
        given: NAME_OR_FILE[:ARGUMENT], such as "quickstart", "bccd/subset:plain" or "mine.py".

    Raises:
        UnknownConfig: there is neither a config of that name nor such a file; the message has the nearest names.
    """
    place = located(given)
    file, _, argument = place.partition(":")
    make_importable(Path(file))
    name = f"aa_flax_config_{Path(file).stem}"
    specification: Any = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def _near(word: str, names: list[str]) -> list[str]:
    """Return up to three names that may be meant: that of a file of `experiments`, of another folder, or misspelt."""
    word = word.removeprefix("experiments/").removesuffix(".py")
    if word in names:
        return [word]
    last = word.rpartition("/")[2]
    lasts = {name: name.rpartition("/")[2] for name in names}
    misspelt = difflib.get_close_matches(last, [*lasts.values()], n=3, cutoff=0.7)
    return (
        [name for name in names if lasts[name] == last]
        or difflib.get_close_matches(word, names, n=3, cutoff=0.8)
        or [name for name in names if lasts[name] in misspelt]
    )[:3]


def make_importable(file: Path) -> None:
    """Let a config import what lies beside it and, as `experiments.FOLDER.NAME`, other files of its `experiments`.

    What lies beside it comes last on the path, so that no name hides another; files of its own `experiments` come
    before those of any other folder of that name.
    """
    file = file.absolute()
    sys.path.append(str(file.parent))
    for folder in file.parents:
        if folder.name == "experiments" and _is_experiments(folder):
            with contextlib.suppress(ImportError):
                importlib.import_module("experiments")
            package = sys.modules.setdefault("experiments", ModuleType("experiments"))
            others = [path for path in getattr(package, "__path__", ()) if path != str(folder)]
            package.__path__ = [str(folder), *others]
            return
