"""A trained network as a pure function of arrays, with the names and shapes of what goes in and comes out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.inference.export.errors import ExportError
from aa_flax.models.functional import functional
from aa_flax.tasks import Task, places


class Argument(NamedTuple):
    """An input or output of a program, whose first axis is the batch."""

    name: str
    shape: tuple[int, ...]  # of one image
    dtype: str
    meaning: str = ""

    def of(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Return shape and dtype of a batch, whose size may be a symbol."""
        return jax.ShapeDtypeStruct((batch, *self.shape), jnp.dtype(self.dtype))


class Served:
    """A trained network in evaluation: a function of images, and of their sizes if they do not fill the canvas.

    Attributes:
        form: which of the task's forms it gives.
        size: (height, width) of the images.
        preprocessing: whether it takes pixels and normalises them.
        inputs: what it takes.
        variables: parameters and batch statistics.
    """

    def __init__(
        self,
        model: nnx.Module,
        task: Task,
        preprocessing: Preprocessing,
        size: tuple[int, ...],
        form: str = "",
        *,
        normalizes: bool = True,
        loops: bool = True,
    ) -> None:
        """Take a trained network.

        Args:
            model: the network.
            task: what it was trained for.
            preprocessing: what it expects of a photograph.
            size: (height, width) of its input.
            form: of what it gives, one that the task has; "" is the usual one.
            normalizes: whether it takes pixels.
            loops: whether the program may have loops.

        Raises:
            ExportError: the task has no such form, or none.
        """
        forms: Sequence[str] = getattr(task, "serves", ())
        if not forms:
            raise ExportError(f"the task {type(task).__name__} has no method `serve`, which an export needs")
        with_loops = () if loops else getattr(task, "needs_loops", ())
        forms = [each for each in forms if each not in with_loops]
        if not forms:
            raise ExportError(
                "what this network finds takes loops, which a program of this format has not; stablehlo has"
            )
        if form and form not in forms:
            others = f"; {form} needs loops, which stablehlo has" if form in with_loops else ""
            raise ExportError(f"outputs must be one of {', '.join(forms)} for this network, got {form!r}{others}")
        self.form, self.size, self.preprocessing, self.normalizes = form or forms[0], size, preprocessing, normalizes
        self._task: Any = task
        self._apply, *variables = functional(model, self._outputs)
        self.variables = tuple(variables)
        height, width = size
        pixels = "pixels, 0 to 255" if normalizes else "pixels, normalised, with padding of 0"
        images = Argument("images", (height, width, preprocessing.channels), "uint8" if normalizes else "float32")
        self.inputs: tuple[Argument, ...] = (images._replace(meaning=pixels),)
        if places(task) and preprocessing.resize == "fit":
            meaning = "rows and columns of each image that the photograph covers, from the upper left corner"
            self.inputs += (Argument("sizes", (2,), "float32", meaning),)

    def __call__(self, variables: Any, *arrays: Array) -> dict[str, Array]:
        """Return the outputs by name for parameters and batch statistics, and one array for each of `inputs`."""
        return self._apply(*variables, *arrays)[0]

    def _outputs(self, model: Any, images: Array, sizes: Array | None = None, **_: Any) -> dict[str, Array]:
        if sizes is None:
            placement = None
            sizes = jnp.broadcast_to(jnp.asarray(self.size, jnp.float32), (images.shape[0], 2))
        else:  # as batches have it: window, size, photo
            placement = jnp.concatenate([jnp.zeros_like(sizes), jnp.zeros_like(sizes), sizes, sizes], -1)
        if self.normalizes:
            images = self.preprocessing.normalize(images, placement)
        else:
            images = images.astype(jnp.dtype(self.preprocessing.dtype))
        return self._task.serve(model, images, sizes, self.form)

    def shapes(self, batch: int | None) -> list[jax.ShapeDtypeStruct]:
        """Return shape and dtype of each input for a batch, whose size is the symbol "b" for None."""
        size = jax.export.symbolic_shape("b")[0] if batch is None else batch
        return [each.of(size) for each in self.inputs]

    def outputs(self, batch: Any = 1) -> tuple[Argument, ...]:
        """Return what it gives."""
        shapes = jax.eval_shape(self, self.variables, *(each.of(batch) for each in self.inputs))
        return tuple(Argument(name, each.shape[1:], str(each.dtype)) for name, each in shapes.items())

    def made_up(self, batch: int) -> tuple[np.ndarray, ...]:
        """Return inputs to compare programs on: noise, brighter and coarser from image to image, always the same."""
        rng = np.random.default_rng(batch)
        height, width, channels = self.inputs[0].shape
        images = []
        for number in range(batch):
            cell = 2 ** (number % 4)
            coarse = rng.integers(0, 256, (-(-height // cell), -(-width // cell), channels), np.uint8)
            images.append(coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width])
        sizes = np.asarray([(height, max(1, width - number * width // (2 * batch))) for number in range(batch)])
        return self.arguments(np.stack(images), sizes.astype(np.float32))

    def arguments(self, pixels: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the inputs for pixels uint8 [b, h, w, c], and the sizes [b, 2] of the photographs on their canvas."""
        takes_sizes = len(self.inputs) > 1
        if self.normalizes:
            return (pixels, sizes)[: len(self.inputs)]
        placement = np.concatenate([np.zeros_like(sizes), np.zeros_like(sizes), sizes, sizes], -1)
        placed = jnp.asarray(placement) if takes_sizes else None
        images = np.asarray(self.preprocessing.normalize(jnp.asarray(pixels), placed), np.float32)
        return (images, sizes)[: len(self.inputs)]


Program = Callable[..., dict[str, Any]]
"""A function of arrays, one for each of `Served.inputs`, to outputs by name."""
