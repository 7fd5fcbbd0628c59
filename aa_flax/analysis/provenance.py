"""The provenance of a measured number, to be stored beside it."""

import datetime
import os
import platform
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import jax

from aa_flax.runs.commit import ROOT, commit

__all__ = ["ROOT", "commit", "package_version", "provenance"]


def provenance(command: str) -> dict[str, Any]:
    """Return the command, commit, date, device and versions of a measurement."""
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "jaxlib", "flax", "optax", "numpy")},
        },
    }


def package_version(name: str) -> str | None:
    """Return the version of an installed package, None if it is not installed.

    libtpu may be a file that TPU_LIBRARY_PATH names, inside its package.
    """
    library = os.environ.get("TPU_LIBRARY_PATH")
    folders = [*sys.path, *([str(Path(library).parent.parent)] if library else [])]
    found = next(iter(distributions(name=name, path=folders)), None)
    return found.version if found else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
