"""`aa_flax.load`: from a path to a predictor."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aa_flax.data.images import Interpolation
from aa_flax.data.view import Resize
from aa_flax.inference.about import About, Given
from aa_flax.inference.predictor import Predictor
from aa_flax.inference.sources import Checkpoint, TrainedNetwork, opened
from aa_flax.runs.paths import RunPath
from aa_flax.tasks.scoring_options import scored_with


def load(
    path: str | RunPath,
    *,
    image_size: int | tuple[int, int] | None = None,
    checkpoint: Checkpoint = "last",
    names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: Resize | None = None,
    crop_fraction: float | None = None,
    interpolation: Interpolation | None = None,
    category_ids: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Predictor:
    """Return a predictor with a trained network: `aa_flax.load("runs/mine")("photo.jpg")`.

    Args:
        path: the directory of a run; a safetensors file of this library, which has its card beside it or in its header;
            a folder of a hub, see `aa_flax.hub`; or a repository of the Hugging Face Hub, "hf_hub:owner/name".
        image_size: another (height, width) of the network's input, or one number for both, than that of training.
        checkpoint: of a run, "last", the newest undamaged one; "best", that of the highest held-out score; or a step.
        names, mean, std, resize, crop_fraction, interpolation, category_ids: how the network sees photographs, as
            `aa_flax.inference.about.Given` has them, for a file that does not say so, such as imported weights.

        options: of the task, by which the network is used otherwise than its run scored it, such as {"flip": True} of
            segmentation; see `aa_flax.tasks.scoring_options`.

    Raises:
        ConfigError: the task has no such option.
        RunDirectoryError: the folder is none of a run, or has no checkpoint.
        CheckpointError: no such checkpoint, or all are damaged.
        WeightsError: the file is missing or damaged, or it does not say how the network sees photographs and nothing
            was given; the message says what is missing.
        ValueError: images of that size are nothing that the network can take.
    """
    given = Given(names, mean, std, resize, crop_fraction, interpolation, category_ids)
    return predictor_of(opened(path, given, checkpoint), image_size, options or {})


def predictor_of(
    source: TrainedNetwork,
    image_size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Predictor:
    """Return the predictor of a trained network that lies somewhere; `options` as for `load`."""
    about = about_of(source)
    about = dataclasses.replace(about, config=scored_with(about.config, options))
    model, step = source.read_model()
    return Predictor(model, about, image_size=image_size, step=step)


def about_of(source: TrainedNetwork) -> About:
    """Return what is known of a trained network besides its weights."""
    return About(source.read_config(), source.read_preprocessing(), dict(source.read_result() or {}))
