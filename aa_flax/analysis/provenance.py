"""Where a measured number comes from: stored beside it, and checked by a test against the sources of today."""

import datetime
import hashlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).parents[2]


def source_hash(files: Iterable[str]) -> str:
    """SHA-256 over names and contents of files, given relative to the checkout."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def provenance(command: str, files: Iterable[str]) -> dict[str, Any]:
    """Command, date, device and versions of a measurement, and the sources that it depends on."""
    files = sorted(files)
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "jaxlib", "flax", "optax", "numpy")},
        },
        "sources": {"files": files, "sha256": source_hash(files)},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
