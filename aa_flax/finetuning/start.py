"""The trained network that fine-tuning starts from: which one it is, and how it sees photographs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.inference.repository import fetched, repository_of
from aa_flax.inference.sources import opened
from aa_flax.json_values import as_tuples
from aa_flax.models.registry import backbone_of, model_options, model_task
from aa_flax.runs.birth import is_run
from aa_flax.training.first_weights import OF_A_HUB, first_weights
from aa_flax.weights import WeightsError
from aa_flax.weights.card import read_card
from aa_flax.weights.recognized import recognize


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained network.

    Attributes:
        place: what `config.model.init_from` is to be.
        name, options: of the network, as `create_model` has them.
        source: the library whose names the weights have, `config.model.init_source`.
        image_size: height and width of the images that it was made for; None where nothing says it.
        channels: of these images.
        seen: how it sees photographs; None where nothing says it.
    """

    place: str
    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = "aa_flax"
    image_size: tuple[int, ...] | None = None
    channels: int = 3
    seen: Preprocessing | None = None

    @property
    def task(self) -> str:
        """What the network is for."""
        return model_task(self.name)

    @property
    def backbone(self) -> str:
        """The name of its backbone, its own name if it is a classifier."""
        return backbone_of(self.name)

    def options_of(self, name: str) -> dict[str, Any]:
        """Return those of its options that say what another network, around the same backbone or bare, is made of."""
        shared = {*model_options(self.backbone)} & {*model_options(name)} & {*model_options(self.name)}
        return {option: value for option, value in self.options.items() if option in shared}


def start_of(given: str, named: str = "", source: str = "") -> Start:
    """Return the trained network that lies at a place.

    Args:
        given: a run directory, the folder of a hub or "hf_hub:owner/name", a safetensors file of this library with its
            card, or a file of weights of timm, torchvision or the authors of PatchConvNet.
        named, source: the network that is to take the weights and the library whose names these have, for a file that
            is not recognised.

    Raises:
        WeightsError: there is no such file or folder, it is damaged, or of no network that this library has.
        RunDirectoryError: a run that cannot be read.
        HubError: a repository that cannot be fetched.
    """
    hub = repository_of(given)
    path = fetched(hub) if hub else Path(given).expanduser().absolute()
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    if path.is_dir() and is_run(path):
        own: Any = opened(path)
        return _known(path, own.read_config().model, own.read_preprocessing())
    if path.is_dir() and not (path / OF_A_HUB).is_file():
        raise WeightsError(f"{path}: neither a run directory nor the folder of a hub, and no file of weights")
    file = path / OF_A_HUB if path.is_dir() else path
    try:
        card = read_card(file)
    except WeightsError:
        try:
            found = recognize(first_weights(str(file)), str(file))
        except WeightsError:
            if not named or not source:
                raise
            return Start(str(path), named, source=source)
        return Start(str(path), found.name, source=found.source)
    if "trained" in card:
        about = opened(file)
        return _known(path, about.read_config().model, about.read_preprocessing())
    options = {name: as_tuples(value) for name, value in card["options"].items()}
    return Start(str(path), card["model"], options, image_size=tuple(card["image_size"]), channels=card["in_channels"])


def _known(path: Path, model: Any, seen: Preprocessing) -> Start:
    size, channels = tuple(seen.image_size), seen.channels
    return Start(str(path), model.name, dict(model.options), image_size=size, channels=channels, seen=seen)
