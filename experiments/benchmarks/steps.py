"""A network's training step and its inference as the library runs them, ready to be compiled and timed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing.summary import Summary, summarize
from aa_flax.training import resolve
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout
from aa_flax.training.step import make_train_step


@dataclass
class Steps:
    """One network with a batch on the device.

    Attributes:
        train: the training step, (state, batch) -> state.
        infer: inference, (parameters, statistics, images) -> logits.
        state: the state that the first step starts from.
        batch: random pixels and labels.
        counted: returns the network's parameters, and the operations of a forward pass of one image.
    """

    train: Callable[..., Any]
    infer: Callable[..., Any]
    state: Any
    batch: dict[str, jax.Array]
    counted: Callable[[], Summary]

    def lower_train(self) -> Any:
        """Return the training step before compilation; the state that it is given is donated."""
        return jax.jit(self.train, donate_argnums=0).lower(self.state, self.batch)

    def lower_infer(self) -> Any:
        """Return the inference before compilation."""
        return jax.jit(self.infer).lower(self.state.params, self.state.batch_stats, self.batch["image"])

    def running(self, compiled: Any) -> "Running":
        """Return the compiled training step as a program that can be timed."""
        return Running(compiled, self.state, self.batch)


class Running:
    """Training steps, each from the state that the one before left."""

    def __init__(self, compiled: Any, state: Any, batch: Any) -> None:
        self._compiled, self.state, self._batch = compiled, state, batch

    def __call__(self, times: int) -> None:
        """Make that many steps and wait for the last."""
        for _ in range(times):
            self.state = self._compiled(self.state, self._batch)
        jax.block_until_ready(self.state)


def prepare(
    name: str, options: dict[str, Any], *, batch: int, image_size: int, dtype: str, num_classes: int = 1000
) -> Steps:
    """Build a network and its two programs: uint8 images in, flips, cross-entropy, SGD with momentum.

    Args:
        name: one of `aa_flax.models.list_models()`.
        options: overrides of the model.
        batch: number of images.
        image_size: side of the images in pixels.
        dtype: dtype of the computation.
        num_classes: number of classes.
    """
    config = resolve({"model": {"name": name, "options": options, "dtype": dtype}, "batch_size": batch})
    size = (image_size,) * 2
    preprocessing = Preprocessing(
        image_size=size,
        channels=3,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        class_names=tuple(map(str, range(num_classes))),
        dtype=config.model.dtype,
        data_fingerprint="",
    )
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # a GPU would compile every small array operation
        program = Program.of(config, preprocessing, Layout.of(config, jax.local_devices()[:1]), epoch_steps=100)
    rng = np.random.default_rng(0)
    images = {
        "image": jnp.asarray(rng.integers(0, 256, (batch, *size, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, num_classes, batch), jnp.int32),
    }

    def logits(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        return program.predictions((params, batch_stats), images)

    state = program.new_state()
    return Steps(
        train=make_train_step(program.task, program.losses, program.optimizer, config),
        infer=logits,
        state=state,
        batch=images,
        counted=lambda: summarize(program.model((program.params, program.batch_stats)), image_size),
    )
