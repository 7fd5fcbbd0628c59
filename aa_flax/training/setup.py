"""Setting up a run: from a config to its program and its data."""

import dataclasses
import functools
from typing import Any

import jax
from absl import logging
from flax import nnx

from aa_flax import data
from aa_flax.config.schema import MAY_DIFFER, Config, ConfigError, flatten
from aa_flax.data.augment.host import crop_settings, make_host_augment
from aa_flax.data.pipeline import Batches
from aa_flax.data.preprocessing import Preprocessing, preprocessing_for
from aa_flax.runs.directory import RunDirectory
from aa_flax.runs.hosts import prove_equal
from aa_flax.tasks import begin, check_source, make_task
from aa_flax.training import determinism
from aa_flax.training.first_weights import take_weights
from aa_flax.training.program import Program
from aa_flax.training.resident import resident
from aa_flax.training.settings import settings
from aa_flax.training.sharding import Layout, place_batch
from aa_flax.training.train_sizes import check_train_sizes


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run's program with its data."""

    program: Program
    dataset: data.Dataset
    train_source: data.Source
    eval_source: data.Source
    weights: str  # report on the weights that the run starts from

    @property
    def config(self) -> Config:
        """The config of the run."""
        return self.program.config

    @property
    def layout(self) -> Layout:
        """The placement of arrays."""
        return self.program.layout

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images."""
        return self.program.preprocessing

    def check_splits(self) -> None:
        """Raise ConfigError if training and held-out data share examples and the config does not say that they may."""
        fields = self.config.data
        shared = self.dataset.shared(fields.train_split, fields.eval_split)
        if shared and not fields.allow_overlap:
            raise ConfigError(
                f"config fields 'data.train_split' ({fields.train_split!r}) and 'data.eval_split' "
                f"({fields.eval_split!r}) share {shared:,} examples, so that scores would not be of held-out data; "
                "'train[:90%]' and 'train[90%:]' share none, and 'data.allow_overlap' = True says that it is meant"
            )

    @property
    def last_epoch(self) -> int:
        """The epoch at whose end this call of `train` ends."""
        return min(self.config.stop_after_epoch or self.config.epochs, self.config.epochs)

    @functools.cached_property
    def pool(self) -> dict[str, Any]:
        """Return what every batch has besides its indices, on the devices; empty where the host sends the images."""
        return resident(self.train_source, self.layout) if self.config.data.on_device else {}

    def placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch of `train_batches` on the devices, as the train step takes it."""
        on_device = self.config.data.on_device
        kept = {name: values for name, values in batch.items() if (name == "index") == on_device}
        return {**place_batch(kept, self.layout), **self.pool}

    def train_batches(self, start_step: int) -> Batches | data.IndexBatches:
        """Return this process's share of the batches, from step `start_step` on."""
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
            fill=self.preprocessing.mean_pixel,
            **crop_settings(self.config),
            augment=make_host_augment(self.config, self.preprocessing),
            repeats=self.config.data.repeats,
            num_threads=self.config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def set_up(config: Config, directory: RunDirectory) -> Setup:
    """Load data and network for a run in `directory`.

    Raises:
        ConfigError, aa_flax.data.DataError: the run is not possible; nothing was compiled or written.
    """
    prove_equal({f"config field {name!r}": v for name, v in flatten(config).items() if name not in MAY_DIFFER})
    prove_equal({"version of JAX": jax.__version__, "kind of device": jax.devices()[0].device_kind})
    prove_equal({f"setting {name}": value for name, value in settings().items()})
    if config.deterministic:
        logging.info("deterministic: XLA_FLAGS has %s", " ".join(determinism.check()) or "no need of a flag here")
    layout = Layout.of(config)
    layout.check_batch_size("batch_size", config.batch_size, config.optimizer.accumulation_steps)
    layout.check_batch_size("eval_batch_size", config.eval_batch_size)
    directory.check(config)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    prove_equal({"data set": dataset.fingerprint})
    preprocessing = preprocessing_for(config, dataset)
    directory.check(config, preprocessing)
    task = make_task(config, preprocessing)
    train_source = dataset.split(config.data.train_split, task.targets, fast_decode=config.data.fast_decode)
    eval_source = dataset.split(config.data.eval_split, task.targets)
    if eval_source.annotations is not None:
        try:
            eval_source.annotations.require_truths()
        except data.DataError as error:
            raise ConfigError(
                f"config field 'data.eval_split': {error}; aa_flax.evaluate --split writes what a network finds in them"
            ) from None
    for source in (train_source, eval_source):
        check_source(task, source)
    eval_source[0]  # a split that has no truths, or cannot be decoded, ends the run now and not after an epoch
    if config.data.corrupt_budget:
        # Held-out data gets no such budget: a score counts every example, each once.
        train_source = data.TolerantSource(train_source, config.data.corrupt_budget)
    if config.data.cache:
        train_source, eval_source = train_source.cached(), eval_source.cached()
    begin(task, train_source)
    epoch_steps = data.steps_per_epoch(len(train_source), config.batch_size)

    reports: list[str] = []

    def take(model: nnx.Module) -> None:
        if config.model.init_from and not directory.has_checkpoint:
            reports.append(str(take_weights(model, config, preprocessing.names)))

    with jax.default_device(_host()):
        program = Program.of(config, preprocessing, layout, epoch_steps, task=task, change=take)
    program.task.check(layout.mesh.shape["data"])
    check_train_sizes(program)
    if (warmup := config.optimizer.warmup_steps) >= program.total_steps:
        logging.warning("the learning rate never reaches its peak: %d warm-up steps of %d", warmup, program.total_steps)
    if config.optimizer.schedule == "steps" and min(config.optimizer.decay_at_epochs) >= config.epochs:
        logging.warning("the learning rate never drops: decay_at_epochs begins after the %d epochs", config.epochs)
    return Setup(program, dataset, train_source, eval_source, "".join(reports))


def _host() -> Any:
    """Return the CPU, on which a network is built before it is placed; the first device where JAX has no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
