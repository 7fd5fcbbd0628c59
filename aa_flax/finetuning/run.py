"""A folder learnt from beginning to end: `finetune` of Python, and what the command shares with it."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from aa_flax.analysis.whole_run import attempt, whole_run
from aa_flax.config.changes import options_among, with_changes
from aa_flax.config.schema import Config, ConfigError, resolve
from aa_flax.finetuning.folder import name_of_data
from aa_flax.finetuning.gallery import draw_gallery
from aa_flax.finetuning.recipe import Recipe, recipe
from aa_flax.inference import Predictor, load
from aa_flax.inference.repository import repository_of
from aa_flax.literal import literal
from aa_flax.runs.birth import is_run
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.display import say
from aa_flax.runs.hosts import is_first
from aa_flax.runs.metrics import OnMetrics
from aa_flax.tasks import OPTIONS


def finetune(
    folder: str | Path,
    weights: str | Path = "",
    workdir: str | Path = "",
    *,
    kind: str = "",
    skip_damaged: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    on_metrics: OnMetrics | None = None,
) -> Predictor:
    """Learn a folder of photographs, from a trained network or from nothing, and return the predictor.

    The run directory is an ordinary one, with its checkpoints, result and pictures. The same call goes on with a run
    that was interrupted; of a finished one it returns the predictor.

    Args:
        folder, weights, kind, skip_damaged, changes: as of `aa_flax.finetuning.recipe`.
        workdir: the run directory; "" is runs/NAME, by the name of the folder.
        on_metrics: as of `aa_flax.training.train`.

    Raises:
        DataError, WeightsError, ConfigError: as `recipe`.
        RunDirectoryError, NonFiniteError, CheckpointError, Preempted: as `aa_flax.training.train`.
    """
    directory = directory_for(folder, workdir)
    config, said = planned(folder, weights, directory, kind=kind, skip_damaged=skip_damaged, changes=changes)
    tell(said)
    learn(config, directory, on_metrics=on_metrics)
    return load(directory.path)


def learn(config: Config, directory: RunDirectory, **more: Any) -> dict[str, Any] | None:
    """Train a run to its end and draw its gallery; arguments and result are those of `whole_run`."""
    result = whole_run(config, directory, **more)
    if result is not None and result["finished"] and is_first():
        attempt(directory, lambda folder: draw_gallery(directory, folder))
    return result


def directory_for(folder: str | Path, workdir: str | Path = "") -> RunDirectory:
    """Return the run directory: that which is given, or runs/NAME by the name of the folder."""
    return RunDirectory(workdir if str(workdir) else Path("runs") / Path(folder).expanduser().absolute().name)


def planned(
    folder: str | Path,
    weights: str | Path,
    directory: RunDirectory,
    *,
    kind: str = "",
    skip_damaged: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Config, tuple[str, ...]]:
    """Return the config of a run, and lines for the user.

    A run that has begun keeps its config, on whatever device it goes on, and needs neither folder nor weights again.

    Raises:
        ConfigError: the run there is of another folder or of other weights; and what `recipe` raises.
    """
    if not (is_run(directory.path) and directory.has_checkpoint):
        made: Recipe = recipe(folder, weights, kind=kind, skip_damaged=skip_damaged, changes=changes)
        return resolve(made.config), made.said
    before = directory.read_config()
    _require_same_origin(directory, before, folder, weights, kind)
    does = "holds a finished run" if directory.result_file.exists() else "goes on with the run that lies there"
    return _changed(before, changes), (f"{directory.path}: {does}",)


def tell(lines: Iterable[str]) -> None:
    """Print lines for the user, in the first process."""
    for line in lines if is_first() else ():
        say(literal(line))


def _require_same_origin(
    directory: RunDirectory, before: Config, folder: str | Path, weights: str | Path, kind: str
) -> None:
    """Raise ConfigError if a run is of other photographs, as far as they are still there, or of other weights."""
    path, other = Path(folder).expanduser().absolute(), "use another workdir"
    was = before.data.name.partition("/")[0]
    if kind and kind != was:
        raise ConfigError(f"{directory.path} holds a run of a folder as {was}, and not as {kind}; {other}")
    if path.exists() and (name := name_of_data(path, was)) != before.data.name:
        raise ConfigError(f"{directory.path} holds a run of {before.data.name}, and {path} is {name} now; {other}")
    known = before.model.init_from
    elsewhere = not str(weights) or repository_of(weights)
    if not elsewhere and str(Path(weights).expanduser().absolute()) != known:
        raise ConfigError(f"{directory.path} holds a run from {known or 'no weights'}, and not from {weights}; {other}")


def _changed(before: Config, changes: Mapping[str, Any]) -> Config:
    config = ConfigDict(dataclasses.asdict(before))
    with_changes(config, changes)
    for group in OPTIONS:
        config[group].options.update(options_among(changes, group, OPTIONS[group](config[group].name)))
    return resolve(config)
