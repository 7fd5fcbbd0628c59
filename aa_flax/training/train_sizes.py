"""The sizes of a run's training images: the shapes of a batch of each, and whether the network takes them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from aa_flax.config.schema import ConfigError
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.train_sizes import Size
from aa_flax.models.functional import PureDict
from aa_flax.tasks import Task, places
from aa_flax.training.program import Program
from aa_flax.training.step import step_keys


def example_shapes(
    task: Task, preprocessing: Preprocessing, size: Size | None = None
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Return the shapes of what a step reads of an example: image, targets, and placement of targets that lie in it.

    Args:
        task: the task.
        preprocessing: of its images.
        size: (height, width) of the images; None for that of `preprocessing`.
    """
    size, maps = size or preprocessing.image_size, getattr(task.targets, "maps", {})
    dtype = jnp.float32 if preprocessing.of_signals else jnp.uint8
    image = {"image": jax.ShapeDtypeStruct((*size, preprocessing.channels), dtype)}
    # Targets that have a value for each pixel are of the image's size.
    targets = {
        name: jax.ShapeDtypeStruct((*size, *each.shape[2:]), each.dtype) if name in maps else each
        for name, each in task.targets.shapes.items()
    }
    numbers = len(size) if preprocessing.padded else 8 if places(task) else 0
    placement = {"placement": jax.ShapeDtypeStruct((numbers,), jnp.float32)} if numbers else {}
    return {**image, **targets, **placement}


def batch_shapes(program: Program, size: Size | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of the run, split over the devices as they are; `size` is as for an example."""
    return {
        name: jax.ShapeDtypeStruct((program.config.batch_size, *each.shape), each.dtype, sharding=program.layout.batch)
        for name, each in example_shapes(program.task, program.preprocessing, size).items()
    }


def check_train_sizes(program: Program) -> None:
    """Raise ConfigError for a size of the training images at which the network cannot be trained.

    The loss is traced at each of `data.train_sizes`, and nothing is compiled. Most networks take images of any size;
    their relative tables of attention are resized. Some want sides that their stride divides, or have modules of one
    map's size. Without such sizes the one size is traced where batch norm has a single image for its statistics, which
    are then of one value for each channel where a map has one pixel.
    """
    config = program.config
    pieces = config.optimizer.accumulation_steps

    def loss(params: PureDict, batch_stats: PureDict, batch: Mapping[str, jax.Array]) -> object:
        batch_key, model_key = step_keys(config, jnp.zeros((), jnp.int32))
        images, targets, _ = program.task.prepare(batch, batch_key)
        images, targets = jax.tree.map(lambda array: array[: config.batch_size // pieces], (images, targets))
        return program.losses(params, batch_stats, images, targets, train=True, rngs=model_key)

    sizes: list[Size | None] = [*dict.fromkeys((h, w) for h, w in config.data.train_sizes)]
    if not sizes and config.batch_size == config.parallel.batch_norm_groups * pieces:
        sizes = [None]  # the one of `preprocessing`
    with jax.set_mesh(program.layout.mesh):
        for size in sizes:
            try:
                jax.eval_shape(loss, program.params, program.batch_stats, batch_shapes(program, size))
            except (TypeError, ValueError) as error:
                where = "x".join(map(str, size or program.preprocessing.image_size))
                where = (
                    f"'data.train_sizes' has {where}" if config.data.train_sizes else f"'data.image_size' is {where}"
                )
                said = str(error).splitlines()[0]
                raise ConfigError(
                    f"config field {where}, at which {config.model.name} cannot be trained: {said}"
                ) from None
