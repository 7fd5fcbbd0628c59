"""How a segmentation network looks at a photograph when it is scored: whole or in windows, in several sizes, mirrored.

On the device each view of an image gives logits at the network's stride, which are small. What becomes of them at the
photograph's own size, which differs from photograph to photograph, is linear along rows and along columns: logits are
resized to the canvas, the mean is taken where windows overlap, the padding is cut off, a mirrored view is turned back,
and the rest is resized to the photograph. So each view of a photograph has one matrix for its rows and one for its
columns, and `label_map` applies them on the host.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.data.augment.device import flipped
from aa_flax.evaluation.resized_logits import Plane
from aa_flax.ops.resampling import bilinear_weights
from aa_flax.ops.sliding_windows import Windows, taps

Network = Callable[[Array], Array]
"""A function from normalised images [b, h, w, c] to logits [b, hs, ws, classes]."""


@dataclass(frozen=True)
class View:
    """One look at images on a canvas.

    The image is mirrored within its own width first, then all of its canvas is resized.

    Attributes:
        canvas: height and width of the canvas.
        scale: factor of its sides.
        mirrored: whether the image is mirrored left to right.
        crop: height and width of the windows, () for the whole canvas at once.
        stride: from window to window, down and right.
    """

    canvas: tuple[int, int]
    scale: float = 1.0
    mirrored: bool = False
    crop: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The key of the logits of this view."""
        return f"{self.scale:g}{'_mirrored' if self.mirrored else ''}"

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the canvas that the network gets, or windows of it."""
        height, width = (max(round(side * self.scale), 1) for side in self.canvas)
        return height, width

    @functools.cached_property
    def windows(self) -> tuple[Windows, Windows]:
        """The windows down and right of the scaled canvas."""
        crop, stride = self.crop or self.scaled, self.stride or self.crop or self.scaled
        sides = zip(self.scaled, crop, stride, strict=True)
        down, right = (Windows(side, min(size, side), min(step, size, side)) for side, size, step in sides)
        return down, right

    def sizes(self, sizes: Any, numpy: Any = np) -> list[Any]:
        """Return heights and widths, as whole numbers, that images of `sizes` [..., 2] have on the scaled canvas."""
        parts = zip((sizes[..., 0], sizes[..., 1]), self.canvas, self.scaled, strict=True)
        # A side of exactly k pixels must not become k + 1 by rounding.
        return [numpy.ceil(side * (new / old) - 1e-3).astype(numpy.int32) for side, old, new in parts]

    def logits(
        self, network: Network, images: Float[Array, "b h w c"], sizes: Float[Array, "b 2"]
    ) -> Float[Array, "b down right hs ws classes"]:
        """Return the logits of all windows; on the device, pure.

        Windows are computed as far as some image of the batch reaches. Those that an image does not have are zeros or
        repeat its last one.

        Args:
            network: in evaluation.
            images: normalised, on their canvas.
            sizes: height and width of each image on it.
        """
        if self.mirrored:
            images = flipped(images, jnp.ones(len(images), bool), sizes[:, 1])
        if self.scaled != self.canvas:
            shape = (len(images), *self.scaled, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear").astype(images.dtype)
        down, right = self.windows
        if (down.most, right.most) == (1, 1):
            return network(images)[:, None, None]
        heights, widths = self.sizes(sizes, jnp)
        tops, lefts = down.starts(heights, jnp), right.starts(widths, jnp)
        crop = (down.crop, right.crop, images.shape[-1])
        columns = right.count(widths).max()

        def seen(at: Any) -> tuple[Array, Any, Any]:
            row, column = at // columns, at % columns
            start = jnp.take(tops, row, 1), jnp.take(lefts, column, 1)
            cut = jax.vmap(lambda image, top, left: jax.lax.dynamic_slice(image, (top, left, 0), crop))
            return network(cut(images, *start)), row, column

        def one(at: Any, found: Array) -> Array:
            logits, row, column = seen(at)
            return jax.lax.dynamic_update_slice(found, logits[:, None, None], (0, row, column, 0, 0, 0))

        of_one = jax.eval_shape(lambda: seen(0)[0])
        blank = jnp.zeros_like(tops[:, 0], of_one.dtype)  # split over devices as the images are
        shape = (of_one.shape[0], down.most, right.most, *of_one.shape[1:])
        found = jnp.broadcast_to(blank.reshape(-1, 1, 1, 1, 1, 1), shape)
        return jax.lax.fori_loop(0, down.count(heights).max() * columns, one, found)

    def plane(self, logits: Float[np.ndarray, "down right hs ws classes"], placement: Float[np.ndarray, "8"]) -> Plane:
        """Return the logits of one photograph with the matrices that bring them to its own size.

        Args:
            logits: what `logits` gave for it.
            placement: how it lay on the canvas, all of it in sight.
        """
        sides = zip(placement[4:6].tolist(), placement[6:8].tolist(), logits.shape[2:4], strict=True)
        rows, columns = (_to_photo(self, axis, *map(int, side)) for axis, side in enumerate(sides))
        down, right = (len(side.T) // places for side, places in zip((rows, columns), logits.shape[2:4], strict=True))
        flat = logits[:down, :right].swapaxes(1, 2).reshape(rows.shape[1], columns.shape[1], logits.shape[-1])
        used = [slice(int(np.flatnonzero(side.any(0))[-1]) + 1) for side in (rows, columns)]  # the rest is padding
        return Plane(flat[*used], rows[:, used[0]], columns[:, used[1]])

    def to_canvas(self, axis: int, size: int, places: int) -> Float[np.ndarray, "size n"]:
        """Return the matrix from the logits of all windows of an image to its pixels on the canvas, along one axis.

        Args:
            axis: 0 for rows, 1 for columns.
            size: pixels of the image.
            places: logits of a window.
        """
        windows, new, old = self.windows[axis], self.scaled[axis], self.canvas[axis]
        seen = int(self.sizes(np.array([size, size]))[axis])
        count = int(windows.count(seen))
        matrix = windows.matrix(seen, places)[:seen, :count].reshape(seen, count * places)
        if new != old:
            matrix = taps((np.arange(size) + 0.5) * (new / old) - 0.5, seen) @ matrix
        return matrix[::-1] if self.mirrored and axis else matrix


@functools.lru_cache(256)
def _to_photo(view: View, axis: int, size: int, photo: int, places: int) -> Float[np.ndarray, "photo n"]:
    """Return the matrix to the `photo` pixels that a photograph has along one axis; see `View.to_canvas`."""
    matrix = bilinear_weights(size, photo) @ view.to_canvas(axis, size, places)
    return matrix.astype(np.float32)


def all_views(
    canvas: tuple[int, int],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crop: tuple[int, ...] = (),
    stride: tuple[int, ...] = (),
) -> list[View]:
    """Return the views of every scale, and with `flip` each mirrored too; the first is not mirrored."""
    mirrors = (False, True) if flip else (False,)
    return [View(canvas, scale, mirrored, crop, stride) for scale, mirrored in itertools.product(scales, mirrors)]


def planes(views: Sequence[View], logits: Mapping[str, np.ndarray], placement: Float[np.ndarray, "8"]) -> list[Plane]:
    """Return what each view gives for one photograph, from the logits by the view's name, for `label_map`."""
    return [view.plane(logits[view.name], placement) for view in views]
