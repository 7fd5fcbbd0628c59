"""Folders of a hub that come from or go to a repository of the Hugging Face Hub."""

import re
import tempfile
from pathlib import Path
from typing import Any

from flax import nnx

from aa_flax.inference.hub_folder import FILES, require_hub_folder, save
from aa_flax.inference.loading import load as load_path
from aa_flax.inference.predictor import Predictor
from aa_flax.inference.sources import CONFIG_NAME, WEIGHTS_NAME

PREFIX = "hf_hub:"
"""What may stand before the name of a repository, and must for `aa_flax.load`."""


class HubError(Exception):
    """A repository that cannot be named, read or written. The message is one line."""


def load(place: str | Path, *, revision: str | None = None, **said: Any) -> Predictor:
    """Return the predictor of a folder that `save` wrote, or of a repository with such files.

    Of a repository only config.json and model.safetensors are fetched; neither can name another file or a program.

    Args:
        place: a folder; or, where there is none of that name, a repository, "owner/name", with "hf_hub:" before it or
            not.
        revision: branch, tag or commit of the repository.
        said: as of `aa_flax.load`.

    Raises:
        HubError: no such repository, or `huggingface_hub` is not installed.
        WeightsError: as `aa_flax.load`.
    """
    name = str(place)
    if not name.startswith(PREFIX) and Path(place).expanduser().exists():
        if revision is not None:
            raise HubError(f"revision={revision!r} is for a repository, and {place} is a folder here")
        return load_path(place, **said)
    return load_path(fetched(name.removeprefix(PREFIX), revision), **said)


def push(
    model: str | Path | Predictor | nnx.Module,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "aa_flax.hub.push",
    **card: Any,
) -> str:
    """Upload a trained network to a repository, which is made if there is none, and return its address.

    Three files are uploaded and nothing else of the folder.

    Args:
        model: a folder that `aa_flax.hub.save` wrote; or a predictor or network, as of `save`.
        repository: "owner/name".
        private: whether a repository that is made is private.
        token: of the user; the one that `huggingface-cli login` stored if not given.
        message: of the commit.
        card: further arguments of `save`, for a predictor or network.

    Raises:
        HubError: the repository cannot be written, or `huggingface_hub` is not installed.
        WeightsError: the folder is none that `save` wrote, or it has links.
    """
    repository = named(repository)
    if not isinstance(model, str | Path):
        with tempfile.TemporaryDirectory() as folder:
            return push(save(model, folder, **card), repository, private=private, token=token, message=message)
    folder = Path(model).expanduser()
    require_hub_folder(folder)
    hub = _library()
    try:
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=[*FILES], commit_message=message)
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(f"{repository}: cannot be written ({_line(error)})") from error
    return f"https://huggingface.co/{repository}"


def fetched(repository: str, revision: str | None = None) -> Path:
    """Return the folder with config.json and model.safetensors of a repository, in the cache of `huggingface_hub`.

    Raises:
        HubError: no such repository, it has no such files, or `huggingface_hub` is not installed.
    """
    repository = named(repository)
    hub = _library()
    try:
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME])
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(f"{repository}: cannot be fetched ({_line(error)})") from error
    if not (Path(folder) / WEIGHTS_NAME).is_file():
        raise HubError(f"{repository}: has no {WEIGHTS_NAME}; files of other kinds, which may be pickles, are not read")
    return Path(folder)


def named(repository: str) -> str:
    """Return the name of a repository, checked; raise HubError for what is no "owner/name"."""
    part = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    if not re.fullmatch(rf"{part}/{part}", repository) or ".." in repository or "--" in repository:
        raise HubError(f"a repository is named owner/name, with letters, digits, '.', '-' and '_', got {repository!r}")
    return repository


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise HubError("repositories need huggingface_hub: pip install 'aa_flax[hub]'") from None
    return huggingface_hub


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
