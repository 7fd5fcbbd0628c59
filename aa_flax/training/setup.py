"""From a config to all that a run needs before its first step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from absl import logging

from aa_flax import data
from aa_flax.config.schema import MAY_DIFFER, Config, flatten
from aa_flax.data.augment.host import make_host_augment
from aa_flax.data.pipeline import Batches
from aa_flax.data.preprocessing import Preprocessing, preprocessing_for
from aa_flax.models.functional import Apply, PureDict, functional
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.hosts import prove_equal
from aa_flax.training import determinism
from aa_flax.training.augmentation import check_pairs
from aa_flax.training.freezing import leave_frozen
from aa_flax.training.initial import build_model, take_weights
from aa_flax.training.optimizers import learning_rate, optimizer
from aa_flax.training.resident import resident
from aa_flax.training.sharding import Layout, place_batch
from aa_flax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run computes with; nothing of it changes from step to step."""

    config: Config
    layout: Layout
    preprocessing: Preprocessing
    train_source: data.Source
    eval_source: data.Source
    apply: Apply
    chain: optax.GradientTransformation
    weights: str  # report on those that the run starts from
    _params: PureDict
    _batch_stats: PureDict

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps of an epoch."""
        return data.steps_per_epoch(len(self.train_source), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.epochs * self.epoch_steps

    @property
    def last_epoch(self) -> int:
        """Where this call of `train` ends."""
        return min(self.config.stop_after_epoch or self.config.epochs, self.config.epochs)

    @functools.cached_property
    def learning_rate(self) -> Callable[[Any], Any]:
        """Of a step, counted from 0."""
        return learning_rate(self.config.optimizer, self.total_steps, self.epoch_steps)

    def new_state(self) -> TrainState:
        """The state before the first step; no device ever holds more than its part."""
        ema = bool(self.config.optimizer.ema_decay)
        params, batch_stats = self.layout.place((self._params, self._batch_stats))
        create = functools.partial(create_state, optimizer=self.chain, ema=ema)
        shardings = self.layout.of_state(jax.eval_shape(create, params, batch_stats))
        return jax.jit(create, out_shardings=shardings)(params, batch_stats)

    @functools.cached_property
    def pool(self) -> dict[str, Any]:
        """What every batch has besides, on the devices; nothing where the host sends the images."""
        return resident(self.train_source, self.layout) if self.config.data.on_device else {}

    def placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of `train_batches` as the step takes it."""
        names = ("index",) if self.config.data.on_device else ("image", "label")
        return {**place_batch({name: batch[name] for name in names}, self.layout), **self.pool}

    def train_batches(self, start_step: int) -> Batches | data.IndexBatches:
        """This process's share of the batches from a step on."""
        if self.config.data.on_device:
            return data.IndexBatches(
                len(self.train_source),
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                start_step=start_step,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        return data.train_batches(
            self.train_source,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=start_step,
            image_size=self.preprocessing.image_size,
            crop=self.config.data.crop,
            crop_padding=self.config.data.crop_padding,
            fill=self.preprocessing.mean_pixel,
            augment=make_host_augment(self.config, self.preprocessing),
            repeats=self.config.data.repeats,
            num_threads=self.config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def set_up(config: Config, directory: RunDirectory) -> Setup:
    """Load data and network for a run in `directory`.

    Raises:
        ConfigError, aa_flax.data.DataError: if the run cannot be; nothing was compiled or written.
    """
    prove_equal({f"config field {name!r}": v for name, v in flatten(config).items() if name not in MAY_DIFFER})
    prove_equal({"version of JAX": jax.__version__, "kind of device": jax.devices()[0].device_kind})
    if config.deterministic:
        logging.info("deterministic: XLA_FLAGS has %s", " ".join(determinism.check()) or "no need of a flag here")
    layout = Layout.of(config)
    layout.check_batch_size("batch_size", config.batch_size, config.optimizer.accumulation_steps)
    layout.check_batch_size("eval_batch_size", config.eval_batch_size)
    check_pairs(config, layout.mesh.shape["data"])
    directory.check(config)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    prove_equal({"data set": dataset.fingerprint})
    preprocessing = preprocessing_for(config, dataset)
    directory.check(config, preprocessing)
    train_source = dataset.split(config.data.train_split, fast_decode=config.data.fast_decode)
    eval_source = dataset.split(config.data.eval_split)
    if config.data.corrupt_budget:
        # Never of the held-out data: a score is of every example, each once.
        train_source = data.TolerantSource(train_source, config.data.corrupt_budget)
    if config.data.cache:
        train_source, eval_source = train_source.cached(), eval_source.cached()
    epoch_steps = data.steps_per_epoch(len(train_source), config.batch_size)

    with jax.default_device(_host()):
        model = build_model(config, preprocessing)
    starts_from_weights = config.model.init_from and not directory.has_checkpoint
    report = str(take_weights(model, config)) if starts_from_weights else ""
    if config.optimizer.schedule == "steps" and min(config.optimizer.decay_at_epochs) >= config.epochs:
        logging.warning("the learning rate never drops: decay_at_epochs begins after the %d epochs", config.epochs)
    apply, params, batch_stats = functional(model)
    chain = leave_frozen(optimizer(config.optimizer, config.epochs * epoch_steps, epoch_steps), config.model.frozen)
    return Setup(
        config=config,
        layout=layout,
        preprocessing=preprocessing,
        train_source=train_source,
        eval_source=eval_source,
        apply=apply,
        chain=chain,
        weights=report,
        _params=params,
        _batch_stats=batch_stats,
    )


def _host() -> Any:
    """The CPU, where a network is built before its parts go to their devices; a device where JAX was told of no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
