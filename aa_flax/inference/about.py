"""What is known of a trained network besides its weights: all that a photograph must go through, and how it came about.

A run directory has it in its files, a file of weights in its card.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aa_flax.config.moved import under_new_names
from aa_flax.config.schema import Config, ConfigError, resolve
from aa_flax.data.images import Interpolation
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.view import Resize
from aa_flax.json_values import as_tuples, finite
from aa_flax.models.registry import model_task
from aa_flax.tasks import TASKS
from aa_flax.weights import WeightsError


@dataclass(frozen=True)
class About:
    """What is known of a trained network besides its weights.

    Attributes:
        config: of the run that trained it, or as much of it as is known.
        preprocessing: what the network expects of a photograph, and the names of what it tells apart.
        result: of the run, {} if it is not finished or there was none.
    """

    config: Config
    preprocessing: Preprocessing
    result: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as values of JSON, for a card: no folder of this machine, and of the result the scores alone."""
        own, data, model = self.config, self.config.data, self.config.model
        data = dataclasses.replace(data, data_dir="", source_dir="")
        model = dataclasses.replace(model, init_from=Path(model.init_from).name if model.init_from else "")
        plain = {name: value for name, value in self.result.items() if isinstance(value, str | int | float)}
        return finite(
            {
                "task": own.task.name,
                "dataset": data.name,
                "commit": self.result.get("commit"),
                "preprocessing": dataclasses.asdict(self.preprocessing),
                "result": {name: value for name, value in plain.items() if name != "workdir"},
                "config": dataclasses.asdict(dataclasses.replace(own, data=data, model=model)),
            }
        )

    @classmethod
    def from_card(cls, where: Path, card: Mapping[str, Any]) -> "About | None":
        """Return what a card says, None if it says nothing of training.

        Args:
            where: the file that the card is of, for errors.
            card: as `aa_flax.weights.card.read_card` returns it.

        Raises:
            WeightsError: it says what this version cannot read, or of another network than the card does.
        """
        if (values := card.get("trained")) is None:
            return None
        try:
            about = cls(
                resolve(under_new_names(values["config"])),
                Preprocessing.from_json(values["preprocessing"]),
                dict(values["result"]),
            )
            about.preprocessing.view()  # raises for a size or a filter that is none
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"{where}: its card, from another version of aa_flax or damaged: {error}") from None
        own, task = about.config.model, about.config.task.name
        if (own.name, as_tuples(sorted(own.options.items()))) != (
            card["model"],
            as_tuples(sorted(card["options"].items())),
        ):
            raise WeightsError(f"{where}: its card is of {card['model']}, and the config on it of another network")
        if task not in TASKS:
            raise WeightsError(
                f"{where}: its task is {task!r}, a program that a file of weights must not name; load the run directory"
            )
        return about


@dataclass(frozen=True)
class Given:
    """What a caller says of how a network sees photographs, where its weights do not; None is not said.

    Attributes:
        names: of the classes, in the order of the network's outputs.
        mean, std: of each channel, of pixels in 0..1.
        resize, crop_fraction, interpolation: as in `aa_flax.data.view.View`.
        category_ids: of a detector whose columns are numbered as a data set's files number classes, these numbers.
    """

    names: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    resize: Resize | None = None
    crop_fraction: float | None = None
    interpolation: Interpolation | None = None
    category_ids: Sequence[int] | None = None

    @property
    def said(self) -> list[str]:
        """The names of what is said."""
        return [each.name for each in dataclasses.fields(self) if getattr(self, each.name) is not None]

    def about(self, what: str, card: Mapping[str, Any]) -> About:
        """Return what is known of a network, from its card and from what is said here.

        Args:
            what: the network, for errors.
            card: a card of weights, or the same fields: "model", "options", "image_size", "in_channels", "num_classes".

        Raises:
            WeightsError: something is missing; the message says what, and how to give it.
        """
        needed = ["names", "mean", "std", "resize", "interpolation"]
        needed += ["crop_fraction"] if self.resize == "center_crop" else []
        if missing := [name for name in needed if name not in self.said]:
            forms = {
                "names": f"names=[{card['num_classes']} names of classes]",
                "mean": "mean=(0.485, 0.456, 0.406)",
                "std": "std=(0.229, 0.224, 0.225)",
                "resize": "resize='center_crop' with crop_fraction=0.875, 'squash' or 'fit'",
                "interpolation": "interpolation='bilinear' or 'bicubic'",
                "crop_fraction": "crop_fraction=0.875",
            }
            raise WeightsError(
                f"{what} does not say how the network sees photographs; missing: {', '.join(missing)}. Give them as "
                f"they were when it was trained, such as {', '.join(forms[name] for name in missing)}"
            )
        mean, std, names = (tuple(value or ()) for value in (self.mean, self.std, self.names))
        if not len(mean) == len(std) == card["in_channels"]:
            raise WeightsError(
                f"{what}: mean and std need a number for each of {card['in_channels']} channels, got {mean} and {std}"
            )
        if not all(each > 0 for each in self.std or ()):
            raise WeightsError(f"{what}: std must be above 0, got {std}")
        dtype = str(card.get("dtype", "float32"))
        fraction = 0.875 if self.crop_fraction is None else self.crop_fraction
        seen: dict[str, Any] = dict(resize=self.resize, crop_fraction=fraction, interpolation=self.interpolation)
        numbered = {"columns": "category_ids"} if self.category_ids else {}
        try:
            config = resolve(
                {
                    "model": {"name": card["model"], "options": dict(card["options"]), "dtype": dtype},
                    "task": {"name": model_task(card["model"]), "options": numbered},
                    "data": {"name": "", "crop": "none", "flip": False, **seen},
                }
            )
        except ConfigError as error:
            raise WeightsError(f"{what}: {error}") from None
        height, width = card["image_size"]
        ids = tuple(self.category_ids or ())
        size = dict(image_size=(height, width), channels=card["in_channels"], mean=mean, std=std, class_names=names)
        return About(
            config, Preprocessing(**size, dtype=config.model.dtype, data_fingerprint="", category_ids=ids, **seen)
        )
