"""Packages for a machine with jax, flax, optax and PyTorch but without a network: collected here, unpacked there."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

_REQUIREMENTS = Path(__file__).parents[3] / "requirements.txt"

# Packages that `aa_flax.train` imports, directly or through TFDS and Grain, and that such a machine lacks.
WANTED = (
    "array-record",
    "beartype",
    "dm-tree",
    "grain",
    "immutabledict",
    "importlib-resources",
    "ml-collections",
    "portpicker",
    "promise",
    "tensorboardx",
    "tensorflow-datasets",
    "tensorflow-metadata",
    "termcolor",
    "toml",
)
_SOURCE_ONLY = ("promise",)  # pure Python, without a wheel on the index
_TARGET = ["--python-version=3.12", "--implementation=cp"]
_TARGET += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + [
    "--platform=manylinux2014_x86_64"
]


def pins() -> list[str]:
    """Return NAME==VERSION of each wanted package, from requirements.txt."""
    found = {}
    for line in _REQUIREMENTS.read_text().splitlines():
        requirement, _, marker = line.partition(";")
        name, _, version = requirement.strip().partition("==")
        if name in WANTED and "< '3.12'" not in marker:
            found[name] = version
    if missing := sorted(set(WANTED) - set(found)):
        raise SystemExit(f"requirements.txt pins no {', '.join(missing)}")
    return [f"{name}=={found[name]}" for name in WANTED]


def make(folder: Path) -> None:
    """Download the wheels of all wanted packages into a folder, by pip from its package index.

    Raises:
        SystemExit: there is no pip, or it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = [pin for pin in pins() if pin.partition("==")[0] in _SOURCE_ONLY]
    fetched = [pin for pin in pins() if pin not in built]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    commands = (
        [*pip, "download", "--no-deps", "--only-binary=:all:", *_TARGET, f"--dest={folder}", *fetched],
        [*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", *built],
    )
    for command in commands:
        if subprocess.run(command).returncode:
            raise SystemExit(f"--wheels: this failed: {' '.join(command)}")
    files = sorted(folder.glob("*.whl"))
    total = sum(file.stat().st_size for file in files)
    print(f"{len(files)} wheels, {total / 1e6:.1f} MB, in {folder}")


def unpack(folder: Path, site: Path) -> Path:
    """Unpack the wheels of a folder whose packages are missing here into `site`, to be put on Python's path.

    A wheel is an archive of files for that path, so no installer is needed.

    Raises:
        SystemExit: there are no wheels in the folder.
    """
    files = sorted(folder.glob("*.whl"))
    if not files:
        raise SystemExit(f"--install: there are no wheels in {folder}; --wheels={folder} makes them")
    present = {_plain(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    site.mkdir(parents=True, exist_ok=True)
    for file in files:
        if _plain(file.name.split("-")[0]) not in present:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(site)
    return site


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
