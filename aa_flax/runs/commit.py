"""The commit of the library that a run is trained with, or a number measured."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_OUTCOMES = (":!experiments/results", ":!notebooks/*.ipynb")


def commit() -> str:
    """Return the commit of the checkout, "unknown" outside one.

    A suffix "-dirty" says that tracked files were changed, other than stored results and notebooks, which no run reads.
    A checkout that only holds the installed library, such as one with an environment in it, is not the library's own.
    """
    top = _git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != ROOT.resolve():
        return "unknown"
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_OUTCOMES)
    return "unknown" if not head else f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
