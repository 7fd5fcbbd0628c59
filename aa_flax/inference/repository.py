"""Repositories of the Hugging Face Hub: their names, and the two files of one that are fetched."""

import re
from pathlib import Path
from typing import Any

from aa_flax.weights import WeightsError

PREFIX = "hf_hub:"
"""What stands before the name of a repository where a path could stand too."""
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
"""The files that are read."""


def repository_of(place: object) -> str:
    """Return the repository that a place names by `PREFIX`, or by timm's "hf-hub:"; "" for any other place."""
    found = re.match(r"hf[_-]hub:", str(place))
    return str(place)[found.end() :] if found else ""


class HubError(WeightsError):
    """A repository that cannot be named, read or written. The message is one line."""


def fetched(repository: str) -> Path:
    """Return the folder with config.json and model.safetensors of a repository, in the cache of `huggingface_hub`.

    Args:
        repository: "owner/name" or "owner/name@revision", of a branch, tag or commit.

    Raises:
        HubError: no such repository, it has no such files, or `huggingface_hub` is not installed.
    """
    name, at, revision = repository.partition("@")
    name = named(name)
    if at and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}", revision):
        raise HubError(f"a revision is a branch, tag or commit, got {revision!r}")
    hub = library()
    try:
        folder = hub.snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME])
    except failures(hub) as error:
        raise HubError(f"{repository}: cannot be fetched ({line(error)})") from error
    if not (Path(folder) / WEIGHTS_NAME).is_file():
        raise HubError(f"{repository}: has no {WEIGHTS_NAME}; files of other kinds, which may be pickles, are not read")
    return Path(folder)


def named(repository: str) -> str:
    """Return the name of a repository, checked; raise HubError for what is no "owner/name"."""
    part = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    if not re.fullmatch(rf"{part}/{part}", repository) or ".." in repository or "--" in repository:
        raise HubError(f"a repository is named owner/name, with letters, digits, '.', '-' and '_', got {repository!r}")
    return repository


def library() -> Any:
    """Return `huggingface_hub`; raise HubError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise HubError("repositories need huggingface_hub: pip install 'aa_flax[hub]'") from None
    return huggingface_hub


def failures(hub: Any) -> tuple[type[Exception], ...]:
    """Return what `huggingface_hub` raises for a repository that cannot be reached, read or written."""
    return (hub.errors.HfHubHTTPError, OSError, ValueError)


def line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
