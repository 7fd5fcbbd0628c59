"""The config by which a folder of photographs is learnt: network, size, schedule and what waits, and why, in words."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from aa_flax.config.changes import options_among, with_changes
from aa_flax.config.schema import Config, ConfigError, default_config, resolve
from aa_flax.data.preprocessing import preprocessing_for
from aa_flax.finetuning.choices import CHOICES, batch_for, on_cpu
from aa_flax.finetuning.folder import Photographs, open_folder
from aa_flax.finetuning.start import Start, start_of
from aa_flax.models.depth import depth_groups, number_of_groups
from aa_flax.models.registry import model_options
from aa_flax.tasks import OPTIONS, make_task
from aa_flax.training.first_weights import take_weights
from aa_flax.training.initial import build_model
from aa_flax.weights import Report
from aa_flax.weights.arrays import flat_arrays

FEW = 5000
"""Photographs below which a network that learns from nothing else is worth a warning."""
WAITING = 0.15
"""Part of the epochs in which only what is new learns."""
STEM_RATE = 0.1
"""Learning rate of the first layer of a trained network, relative to that of the new ones."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is to be trained, and what was found and chosen.

    Attributes:
        config: as a config file returns it; `aa_flax.training.train` takes it.
        said: lines for the user.
    """

    config: Any
    said: tuple[str, ...]


def recipe(
    folder: str | Path,
    weights: str | Path = "",
    *,
    kind: str = "",
    skip_damaged: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """Return the config by which a folder of photographs is learnt, from a trained network or from nothing.

    The folder is prepared as a data set. The network is that of the weights with layers for the folder's classes; for
    another task it is one around the same backbone. Without weights it is a small one. From weights, first only what is
    new learns, in 15 % of the epochs; then all does, the first layer at a tenth of the learning rate and those after it
    at more and more (`config.optimizer.layer_decay`).

    Args:
        folder: photographs in folders of classes; with boxes as COCO, Pascal VOC or YOLO have them; or with label maps.
        weights: a run directory, the folder of a hub or "hf_hub:owner/name", a safetensors file with its card, or a
            file of timm or torchvision; "" learns from nothing.
        kind: one of `aa_flax.data.sets.looking.KINDS` where the folder does not tell; "" is found by looking.
        skip_damaged: leave out photographs that cannot be read, and name them on stderr; else they are an error.
        changes: values of config fields by dotted names, such as {"epochs": 5, "model.name": "aa_resnet50"}.

    Raises:
        DataError: the folder cannot be learnt from, as of `open_folder`.
        WeightsError: the weights cannot be read, or are of no network that is known.
        ConfigError: a change does not fit, or the weights do not fit the network that it asks for.
    """
    asked = (str(changes.get(f"model.{field}", "")) for field in ("name", "init_source"))
    start = start_of(str(weights), *asked) if str(weights) else None
    photographs = open_folder(folder, kind, changes.get("data.data_dir", ""), skip_damaged=skip_damaged)
    choice = CHOICES[photographs.task]
    config = default_config()
    config.task.name = photographs.task
    config.model.dtype = "float32" if on_cpu() else "bfloat16"
    config.data.name = photographs.dataset.name
    config.data.train_split, config.data.eval_split = photographs.train, photographs.held_out
    _set_network(config, start, photographs, changes)
    choice.fill(config, photographs, start)
    _set_lengths(config, photographs, choice.steps(start is not None), changes)
    if changes.get("optimizer.warmup_steps"):
        config.optimizer.warmup = 0.0  # a length of the user's own takes the place of this recipe's
    with_changes(config, changes)
    _set_options(config, "task", changes)
    said = [*photographs.said]
    if start is None:
        said.append(_network_line(config, "learnt from nothing else than these photographs"))
        if (count := photographs.count(photographs.train)) < FEW:
            said.append(
                f"warning: {count:,} photographs are few to learn from alone; --from=WEIGHTS starts from a network"
            )
    else:
        report = _see_what_is_new(config, photographs, changes)
        said.append(_network_line(config, f"from {start.name} in {start.place}"))
        said.append(f"weights: {_told(report)}")
        if config.model.frozen_epochs:
            said.append(
                f"epochs 1 to {config.model.frozen_epochs} of {config.epochs}: what is new learns; then all does, the "
                f"first layer at {STEM_RATE:g} of the learning rate"
            )
    return Recipe(config, tuple(said))


def _set_network(config: Any, start: Start | None, photographs: Photographs, changes: Mapping[str, Any]) -> None:
    choice, asked = CHOICES[photographs.task], changes.get("model.name")
    options: dict[str, Any]
    with config.model.ignore_type():
        if asked:
            config.model.name, options = asked, {}
        elif start is None:
            config.model.name, options = choice.small(photographs)
        else:
            config.model.name, options = choice.from_start(start, photographs)
        try:
            types = model_options(config.model.name)
        except ValueError as error:
            raise ConfigError(f"config field 'model.name': {error}") from None
        if asked and start is not None:
            options = start.options_of(asked)  # what both are made of
        config.model.options = {**options, **options_among(changes, "model", types)}
    if start is not None:
        config.model.init_from, config.model.init_source = start.place, start.source
        config.model.init_adapt_stem = start.channels != 3
        if photographs.task != "classification" and start.task != photographs.task:
            config.model.init_part = "backbone"


def _set_options(config: Any, group: str, changes: Mapping[str, Any]) -> None:
    types = OPTIONS[group](config[group].name)
    given = options_among(changes, group, types)
    with config[group].options.unlocked(), config[group].options.ignore_type():
        for name, value in given.items():
            config[group].options[name] = value


def _set_lengths(config: Any, photographs: Photographs, steps: int, changes: Mapping[str, Any]) -> None:
    """Set the batch, the epochs that make about so many steps, and how often is logged, scored and saved."""
    count, held = photographs.count(photographs.train), photographs.count(photographs.held_out)
    most = config.batch_size
    config.batch_size = changes.get("batch_size") or batch_for(count, most)
    config.eval_batch_size = batch_for(8 * held, 2 * most)
    epoch_steps = max(1, count // config.batch_size)
    config.epochs = changes.get("epochs") or min(max(round(steps / epoch_steps), 10), 100)
    config.eval_every_epochs = config.checkpoint_every_epochs = max(1, config.epochs // 10)
    config.log_every_steps = min(20, epoch_steps)


def _see_what_is_new(config: Any, photographs: Photographs, changes: Mapping[str, Any]) -> Report:
    """Take the weights once, to see what is new; set what waits, and return the report."""
    resolved = resolve(config)
    preprocessing = preprocessing_for(resolved, photographs.dataset)
    model = build_model(resolved, make_task(resolved, preprocessing))
    report = take_weights(model, resolved, preprocessing.names)
    waiting = parts_without(model, {*report.new, *report.partial})
    epochs = round(WAITING * config.epochs) or int(config.epochs > 1)
    if waiting and changes.get("model.frozen_epochs", epochs):
        config.model.frozen, config.model.frozen_epochs = waiting, epochs
    try:
        config.optimizer.layer_decay = round(STEM_RATE ** (1 / number_of_groups(depth_groups(model))), 4)
    except ValueError:  # a network that does not name the depth of its blocks
        config.optimizer.learning_rate /= 4
    with_changes(config, changes)
    return report


def parts_without(model: nnx.Module, new: Iterable[str]) -> tuple[str, ...]:
    """Return the dotted paths of the largest parts of a network that have arrays, and none of those in `new`.

    Nothing is returned if nothing in the network is new.
    """
    arrays, fresh = [*flat_arrays(model)], {*new}
    modules = sorted((".".join(map(str, path)) for path, _ in nnx.iter_modules(model) if path), key=len)
    chosen: list[str] = []
    for path in modules if fresh else ():
        inside = [name for name in arrays if name.startswith(f"{path}.")]
        covered = any(path.startswith(f"{part}.") for part in chosen)
        if inside and not covered and fresh.isdisjoint(inside):
            chosen.append(path)
    return tuple(sorted(chosen))


def _network_line(config: Config | Any, how: str) -> str:
    size = config.data.image_size
    shown = f"{size}×{size}" if isinstance(size, int) else "×".join(map(str, size))
    return (
        f"network: {config.model.name} at {shown}, {how}; {config.epochs} epochs in batches of {config.batch_size} on "
        f"{jax.devices()[0].device_kind}"
    )


def _told(report: Report) -> str:
    """Return in a line what was taken, what is new and what is left."""
    lines = str(report).splitlines()
    parts = {"new": report.new, "left": report.unused}
    more = [f"{word}: {_parents(names)}" for word, names in parts.items() if names]
    return "; ".join([lines[0], *more, *report.notes])


def _parents(names: Iterable[str]) -> str:
    """Return the first of the modules that arrays belong to."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
