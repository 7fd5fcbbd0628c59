"""The programs that a plan compiles: the optimiser step or the forward pass of a run, as shapes only."""

import dataclasses
import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from aa_flax import data
from aa_flax.analysis.estimates import estimated_flops
from aa_flax.config.schema import Config, ConfigError, resolve
from aa_flax.data.facts import FACTS, Facts
from aa_flax.data.preprocessing import Preprocessing, preprocessing_for, preprocessing_without_data
from aa_flax.data.train_sizes import largest
from aa_flax.models.registry import list_models, model_defaults, model_options, options_around
from aa_flax.tasks import TASKS, begin, rows_of
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout
from aa_flax.training.train_sizes import batch_shapes

Mode = Literal["train", "infer"]
ImageSize = tuple[int, int]


@dataclass(frozen=True)
class Subject:
    """A run to be planned: its config, the preprocessing of its images, and the optimiser steps of an epoch."""

    config: Config
    preprocessing: Preprocessing
    epoch_steps: int = 1000

    def image_size(self, mode: Mode) -> ImageSize:
        """Return (height, width) of the images: of those that a run is trained at the largest, which takes the most."""
        sizes = self.config.data.train_sizes if mode == "train" else ()
        return largest(sizes or (self.preprocessing.image_size,))

    def with_batch(self, batch: int) -> "Subject":
        """Return the subject with another batch size, that of all devices together."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_size=batch))

    def with_model(self, name: str) -> "Subject":
        """Return the subject with another network, keeping the config's options that this network has.

        Raises:
            ConfigError: no such network, or one for another task.
        """
        known, task = _options(name), _task_of(name)
        if self.config.task.name in TASKS and task != self.config.task.name:
            raise ConfigError(
                f"{name} is for {task} and {self.config.model.name} for {self.config.task.name}; their steps have "
                "nothing in common"
            )
        kept = {key: value for key, value in self.config.model.options.items() if key in known}
        model = dataclasses.replace(self.config.model, name=name, options=kept)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, model=model, label=""))


def of_model(name: str, image_size: ImageSize | None = None) -> Subject:
    """Return the subject of a network as it is, trained in bfloat16 by SGD with momentum on images of three channels.

    It is trained for the task that it is for. Everything else is `aa_flax.training.default_config()`, but images of
    other tasks than its own are not cropped.

    Args:
        name: one of `aa_flax.models.list_models()`.
        image_size: (height, width); None is the network's own.

    Raises:
        ConfigError: no such network.
    """
    _options(name)
    outputs, own_size = model_defaults(name)
    model, task = {"name": name, "dtype": "bfloat16"}, _task_of(name)
    outputs -= options_around(name).unused_columns if task == "detection" else 0
    images = {} if task == resolve({}).task.name else {"crop": "none"}
    config = resolve({"model": model, "task": {"name": task}, "data": images})
    facts = Facts((None, None, 3), outputs, 0, tuple(range(1, outputs + 1)) if task == "detection" else ())
    return Subject(config, preprocessing_without_data(config, facts, image_size or own_size))


def of_config(config: Config, image_size: ImageSize | None = None) -> Subject:
    """Return the subject of a config; a well-known data set need not be present, and no image is read.

    Args:
        config: a config as for `aa_flax.train`.
        image_size: (height, width); None is the config's, or the data set's own; it replaces all of `train_sizes`.

    Raises:
        ConfigError: the images differ in size and no size is given, or there is no such network.
        aa_flax.data.DataError: the data set is neither well known nor prepared.
    """
    _options(config.model.name)
    if image_size:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_sizes=()))
    name = config.data.name
    facts = FACTS.get(name)
    if facts is None:
        dataset = data.load(name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
        preprocessing = preprocessing_for(config, dataset)
        if image_size:
            preprocessing = dataclasses.replace(preprocessing, image_size=image_size)
        return Subject(config, preprocessing, _epoch_steps(len(dataset.split(config.data.train_split)), config))
    preprocessing = preprocessing_without_data(config, facts, image_size)
    return Subject(config, preprocessing, _epoch_steps(facts.train_examples, config))


def _epoch_steps(examples: int, config: Config) -> int:
    return max(examples // config.batch_size, 1)


def _options(name: str) -> Collection[str]:
    try:
        return model_options(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _task_of(name: str) -> str:
    """Return the name of the task, one of this library's, that a network is for."""
    return next(task for task in TASKS if list_models(name, task=task))


@dataclass(frozen=True)
class Lowered:
    """A program before compilation, and the bytes of its state on each device, without padding."""

    program: Any  # jax.stages.Lowered
    estimated_flops: int  # in Pallas kernels, as their authors estimate
    params_bytes: int
    batch_stats_bytes: int
    optimizer_bytes: int
    ema_bytes: int


def lower(subject: Subject, mode: Mode, mesh: Mesh) -> Lowered:
    """Lower the step of `aa_flax.train`, or the predictions of `aa_flax.evaluate` for uint8 images, for a mesh.

    Predictions are what the task keeps of them: of a detector the detections, decoded and suppressed. State and images
    are placed as in a run of that config on the mesh's devices. Nothing is allocated.

    Args:
        subject: the run; its batch must divide by the devices.
        mode: "train" or "infer".
        mesh: a mesh of any devices, also of a machine that is not present.
    """
    config, preprocessing = subject.config, subject.preprocessing
    layout = Layout.of(config, mesh.devices)
    program = Program.of(config, preprocessing, layout, subject.epoch_steps, shapes=True)
    begin(program.task, None)
    batch = batch_shapes(program, subject.image_size(mode))
    state = program.state_shapes
    with jax.set_mesh(layout.mesh):
        if mode == "infer":
            variables = (state.params, state.batch_stats)
            traced = jax.jit(functools.partial(_kept, program)).trace(variables, batch["image"], batch.get("placement"))
            return Lowered(traced.lower(), estimated_flops(traced), _bytes(variables[0]), _bytes(variables[1]), 0, 0)
        traced = program.train_step.trace(state, batch)
        lowered = traced.lower()
    kept = (state.params, state.batch_stats, state.opt_state, state.ema)
    return Lowered(lowered, estimated_flops(traced), *(_bytes(tree) for tree in kept))


def _kept(program: Program, variables: Any, images: Any, placement: Any) -> Any:
    """Return what a scorer keeps of the predictions for a batch."""
    return rows_of(program.task, program.predictions(variables, images, placement), images, placement)


def _bytes(tree: Any) -> int:
    """Return the bytes of a tree on each device."""
    shapes = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * size for shape, size in shapes)
