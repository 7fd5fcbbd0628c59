"""Losses of segmentation: cross-entropy of each pixel, at the size of the labels."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from aa_flax.data.label_maps import IGNORED
from aa_flax.ops.mesh import over_batch
from aa_flax.ops.resampling import resize_planes
from aa_flax.precision import at_least_float32
from aa_flax.tasks.segmentation_views import View

_STRIP = 1 << 24
"""Logits of one image that are in memory together in a held-out loss, at most, or those of one row."""


def pixel_losses(
    logits: Float[Array, "b classes h w"], labels: UInt8[Array, "b h w"]
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Return the cross-entropy in nats of each pixel, 0 where it is ignored, and whether its class has most.

    Losses are in at least float32. Of a pixel where several classes have most, all count as found. Classes come before
    the locations, over which processors compute several numbers at once: there are more of them than classes.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    valid = labels != IGNORED
    hot = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype).reshape(1, -1, 1, 1)
    own = jnp.where(hot, logits, 0).sum(1)  # no gather, whose gradient scatters
    losses = jnp.where(valid, jax.nn.logsumexp(logits, 1) - own, 0)
    return losses, valid & (own >= logits.max(1))


def image_losses(
    logits: Float[Array, "b hs ws classes"], labels: UInt8[Array, "b h w"], weights: Float[Array, " classes"] | None
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return the sum over each image's pixels of w_y (-log p_y), and how many pixels have their class.

    Args:
        logits: of any size, which are resized to that of the labels.
        labels: the class y of each pixel, or `IGNORED`.
        weights: w of each class; None is 1 for each.
    """
    planes = jnp.moveaxis(logits, -1, 1).astype(at_least_float32(logits.dtype))
    losses, found = pixel_losses(resize_planes(planes, *labels.shape[1:]), labels)
    if weights is not None:
        losses = losses * pixel_weights(labels, weights)
    return losses.sum((1, 2)), found.sum((1, 2), dtype=losses.dtype)


def presence_losses(logits: Float[Array, "b classes"], labels: UInt8[Array, "b h w"]) -> Float[Array, " b"]:
    """Return the binary cross-entropy in nats of which classes occur in each image, its mean over all classes.

    A class occurs where any pixel has it. Of an image that is ignored as a whole it is 0. This is EncNet's semantic
    encoding loss (Zhang et al., 2018).
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    kinds = jnp.arange(logits.shape[-1], dtype=labels.dtype).reshape(1, 1, 1, -1)
    occurs = (labels[..., None] == kinds).any((1, 2))
    losses = (jax.nn.softplus(logits) - jnp.where(occurs, logits, 0)).mean(-1)
    return jnp.where(occurs.any(-1), losses, 0)


def pixel_weights(labels: UInt8[Array, "b h w"], weights: Float[Array, " classes"]) -> Float[Array, "b h w"]:
    """Return the weight of each pixel's class, 0 where it is ignored."""

    def take(labels: Array, weights: Array) -> Array:
        return jnp.take(weights, labels, mode="fill", fill_value=0)

    return over_batch(take, (True, False))(labels.astype(jnp.int32), weights)


def held_out_losses(
    view: View,
    logits: Float[Array, "b down right hs ws classes"],
    labels: UInt8[Array, "b h w"],
    sizes: Float[Array, "b 2"],
) -> Float[Array, " b"]:
    """Return the sum of the cross-entropies of each image's pixels, from the logits of a view's windows.

    The logits are resized to the canvas in strips of rows, because all of them may not fit into memory.

    Args:
        view: neither scaled nor mirrored.
        logits: what `View.logits` gave.
        labels: of the canvas.
        sizes: height and width of each image on it.
    """
    batch, height, width = labels.shape
    compute = at_least_float32(logits.dtype)
    seen = zip(view.windows, view.sizes(sizes, jnp), logits.shape[3:5], strict=True)
    rows, columns = (side.matrix(size, places, jnp).astype(compute) for side, size, places in seen)
    rows, columns = (side.reshape(*side.shape[:2], -1) for side in (rows, columns))
    # Two steps: where types say how a batch is split, one that merges two pairs of axes is refused.
    _, _, right, _, wide, classes = logits.shape
    flat = logits.swapaxes(2, 3).reshape(batch, -1, right, wide, classes).astype(compute)
    flat = jnp.moveaxis(flat.reshape(batch, -1, right * wide, classes), -1, 1)
    at_once = min(max(_STRIP // (width * classes), 1), height)
    strips = -(-height // at_once)
    missing = ((0, 0), (0, strips * at_once - height), (0, 0))
    labels = jnp.pad(labels, missing, constant_values=IGNORED).reshape(batch, strips, at_once, width)
    rows = jnp.pad(rows, missing).reshape(batch, strips, at_once, -1)

    def one(carry: None, strip: tuple[Array, Array]) -> tuple[None, Array]:
        some, truth = strip
        exact: Any = dict(precision="highest")
        down = jnp.einsum("brp,bcpq->bcrq", some, flat, **exact)
        resized = jnp.einsum("bwq,bcrq->bcrw", columns, down, **exact)
        return None, pixel_losses(resized, truth)[0].sum((1, 2))

    _, of_strips = jax.lax.scan(one, None, (rows.swapaxes(0, 1), labels.swapaxes(0, 1)))
    return of_strips.sum(0)
