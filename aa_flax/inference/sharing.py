"""`aa_flax.hub.load` and `aa_flax.hub.push`: from and to folders and repositories."""

import tempfile
from pathlib import Path
from typing import Any

from flax import nnx

from aa_flax.inference.hub_folder import FILES, require_hub_folder, save
from aa_flax.inference.loading import load as load_path
from aa_flax.inference.predictor import Predictor
from aa_flax.inference.repository import PREFIX, HubError, failures, library, line, named, repository_of


def load(place: str | Path, **said: Any) -> Predictor:
    """Return the predictor of a folder that `save` wrote, or of a repository with such files.

    Of a repository only config.json and model.safetensors are fetched; neither can name another file or a program.

    Args:
        place: a folder; or, where there is none of that name, a repository of the Hugging Face Hub, "owner/name" or
            "owner/name@revision", with "hf_hub:" before it or not.
        said: as of `aa_flax.load`.

    Raises:
        HubError: no such repository, or `huggingface_hub` is not installed.
        WeightsError: as `aa_flax.load`.
    """
    name = str(place)
    if repository_of(name) or Path(place).expanduser().exists():
        return load_path(place, **said)
    return load_path(f"{PREFIX}{name}", **said)


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
        token: of the user; the one that `hf auth login` stored if not given.
        message: of the commit.
        card: further arguments of `save`, for a predictor or network.

    Raises:
        HubError: the repository cannot be written, or `huggingface_hub` is not installed.
        WeightsError: the folder is none that `save` wrote, or it has links.
    """
    named(repository)
    if not isinstance(model, str | Path):
        with tempfile.TemporaryDirectory() as made:
            return push(save(model, made, **card), repository, private=private, token=token, message=message)
    folder = Path(model).expanduser()
    require_hub_folder(folder)
    hub = library()
    try:
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=[*FILES], commit_message=message)
    except failures(hub) as error:
        raise HubError(f"{repository}: cannot be written ({line(error)})") from error
    return f"https://huggingface.co/{repository}"
