"""The program of a run: network, optimiser, state and step, made from a config without its data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.depth import DepthGroups, depth_groups
from aa_flax.models.functional import Apply, PureDict, functional
from aa_flax.tasks import Task, make_task
from aa_flax.training.freezing import freeze_statistics, leave_frozen, mask
from aa_flax.training.initial import build_model
from aa_flax.training.layer_decay import decay_by_depth
from aa_flax.training.optimizers import in_two_groups, optimizer
from aa_flax.training.schedules import learning_rate
from aa_flax.training.sharding import Layout
from aa_flax.training.state import TrainState, create_state
from aa_flax.training.step import make_gradient, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """Network, optimiser, state and step of a run; nothing of it changes from step to step."""

    config: Config
    preprocessing: Preprocessing
    task: Task
    layout: Layout
    epoch_steps: int  # optimiser steps of an epoch
    losses: Apply  # `task.losses` of the network
    losses_waiting: Apply  # the same while the parts of `config.model.frozen_epochs` wait
    predict: Apply  # `task.predict` of the network
    params: PureDict  # initial parameters, on the host, or their shapes
    batch_stats: PureDict
    _model: nnx.Module

    @classmethod
    def of(
        cls,
        config: Config,
        preprocessing: Preprocessing,
        layout: Layout,
        epoch_steps: int,
        *,
        task: Task | None = None,
        change: Callable[[nnx.Module], Any] = lambda model: None,
        shapes: bool = False,
    ) -> "Program":
        """Return the program of a config.

        Args:
            config: the config of the run.
            preprocessing: how its images are prepared.
            layout: the placement of its arrays.
            epoch_steps: optimiser steps of an epoch.
            task: the task of the config and its images; made from them if not given.
            change: called with the untrained network, which it may change in place.
            shapes: build shapes only; nothing is allocated and nothing can run.

        Raises:
            ConfigError: the options of the network or of the task do not fit.
        """
        task = task or make_task(config, preprocessing)
        build = functools.partial(build_model, config, task)
        model = nnx.eval_shape(build) if shapes else build()
        change(model)
        losses, params, batch_stats = functional(model, task.losses)
        losses_waiting = losses
        if config.model.frozen_epochs:
            waiting = nnx.clone(model)
            freeze_statistics(waiting, config.model.frozen)
            losses_waiting, _, _ = functional(waiting, task.losses)
        predict, _, _ = functional(model, lambda model, *arguments, **_: task.predict(model, *arguments))
        program = cls(
            config,
            preprocessing,
            task,
            layout,
            epoch_steps,
            losses,
            losses_waiting,
            predict,
            params,
            batch_stats,
            model,
        )
        if config.optimizer.layer_decay != 1:
            program._depth_groups()  # a network without any is an error now and not later
        return program

    @property
    def total_steps(self) -> int:
        """The number of optimiser steps of the whole run."""
        return self.config.epochs * self.epoch_steps

    @functools.cached_property
    def learning_rate(self) -> Callable[[Any], Any]:
        """Return the function from a step, counted from 0, to its learning rate."""
        return learning_rate(self.config.optimizer, self.total_steps, self.epoch_steps)

    @property
    def thaw_step(self) -> int:
        """The step, counted from 0, at which the parts of `config.model.frozen_epochs` begin to learn; 0 if none do."""
        return self.config.model.frozen_epochs * self.epoch_steps

    def waits(self, step: int) -> bool:
        """Return whether parts of the network still wait in a step, counted from 0."""
        return step < self.thaw_step

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Return the whole optax chain, which leaves frozen parts as they are."""
        return self._optimizer(waits=False)

    def _optimizer(self, waits: bool) -> optax.GradientTransformation:
        fields, steps = self.config.optimizer, (self.total_steps, self.epoch_steps)
        if self.thaw_step:
            late = functools.partial(mask, frozen=self.config.model.frozen)
            chain = in_two_groups(fields, *steps, late=late, start=self.thaw_step, waits=waits)
        else:
            chain = optimizer(fields, *steps)
        decay = fields.layer_decay
        chain = chain if decay == 1 else decay_by_depth(chain, self._depth_groups(), decay)
        return leave_frozen(chain, self.frozen(waits=False))

    def _depth_groups(self) -> DepthGroups:
        try:
            return depth_groups(self._model)
        except ValueError as error:
            decay = self.config.optimizer.layer_decay
            raise ConfigError(f"config field 'optimizer.layer_decay' ({decay}): {error}") from None

    def frozen(self, waits: bool) -> tuple[str, ...]:
        """Return the dotted paths of the parts that do not learn: those of the config, and the network's own.

        Args:
            waits: whether parts that learn later count.
        """
        given = self.config.model.frozen if waits or not self.thaw_step else ()
        return (*given, *getattr(self._model, "frozen_parts", ()))

    @property
    def _create(self) -> Callable[..., TrainState]:
        ema = bool(self.config.optimizer.ema_decay)
        return functools.partial(create_state, optimizer=self.optimizer, ema=ema, metrics=self.task.metrics)

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """Return the shapes of a state, each with its sharding."""
        shapes = jax.eval_shape(self._create, self.params, self.batch_stats)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.layout.of_state(shapes),
        )

    def new_state(self) -> TrainState:
        """Return the state before the first step; no device ever holds more than its part."""
        params, batch_stats = self.layout.place((self.params, self.batch_stats))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_shapes)
        return jax.jit(self._create, out_shardings=shardings)(params, batch_stats)

    @functools.cached_property
    def train_step(self) -> Any:
        """Return the train step under `jax.jit`, with its state donated and the new state placed by `layout`.

        It is that of all steps, but for those in which parts wait, see `train_step_at`.
        """
        return self._jitted_step(waits=False)

    @functools.cached_property
    def _waiting_step(self) -> Any:
        return self._jitted_step(waits=True)

    def train_step_at(self, step: int) -> Any:
        """Return the train step of a step, counted from 0."""
        return self._waiting_step if self.waits(step) else self.train_step

    def _jitted_step(self, waits: bool) -> Any:
        losses, chain = self._losses(waits), self._optimizer(waits)
        step = make_train_step(self.task, losses, chain, self.config, self.layout, self.frozen(waits))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_shapes)
        return jax.jit(step, donate_argnums=0, out_shardings=shardings)

    def gradient_at(self, step: int) -> Any:
        """Return the pure function (state, batch) -> Gradient of a step, counted from 0."""
        waits = self.waits(step)
        return make_gradient(self.task, self._losses(waits), self.config, self.layout, self.frozen(waits))

    @functools.cached_property
    def gradient(self) -> Any:
        """Return the pure function (state, batch) -> Gradient of steps in which no part waits."""
        return self.gradient_at(self.thaw_step)

    def losses_at(self, step: int) -> Apply:
        """Return `task.losses` of the network as it is in a step, counted from 0."""
        return self._losses(self.waits(step))

    def _losses(self, waits: bool) -> Apply:
        return self.losses_waiting if waits else self.losses

    def model(self, variables: tuple[PureDict, PureDict]) -> nnx.Module:
        """Return the network with the given (params, batch_stats), arrays of this process's memory."""
        model = nnx.clone(self._model)
        nnx.update(model, *variables)
        return model

    def predictions(self, variables: tuple[PureDict, PureDict], images: Any, placement: Any = None) -> Any:
        """Return the network's predictions for uint8 images [b, h, w, c]; for use inside a trace.

        With the placement [b, 8] of each image, its padding is 0 after normalisation.
        """
        params, batch_stats = self.layout.gathered(variables)
        return self.predict(params, batch_stats, self.preprocessing.normalize(images, placement), placement)[0]
