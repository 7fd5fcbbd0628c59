"""How much memory this process may still take, on this machine and in its container."""

from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return how many bytes this process may still take without being killed or swapped; None where nobody says.

    It is the less of what Linux calls available and of what a memory limit of the process's cgroup (version 2) leaves,
    not counting files that are only cached.
    """
    found = [bytes_ for bytes_ in (_of_machine(), *map(_of_cgroup, _cgroups())) if bytes_ is not None]
    return max(0, min(found)) if found else None


def _of_machine() -> int | None:
    values = _table(_PROC / "meminfo")
    return 1024 * values["MemAvailable:"] if "MemAvailable:" in values else None


def _cgroups() -> list[Path]:
    """Return the folders of this process's cgroup and of those around it."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    names = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    return [_CGROUP / folder for name in names for folder in (name, *name.parents)]


def _of_cgroup(folder: Path) -> int | None:
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = _table(folder / "memory.stat").get("inactive_file", 0)
        return int(limit) - (int(used) - cached)
    except (OSError, ValueError):  # no limit, "max"
        return None


def _table(file: Path) -> dict[str, int]:
    """Return the numbers of a file whose lines begin with a word and a number."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
