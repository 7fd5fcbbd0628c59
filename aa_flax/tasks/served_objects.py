"""Objects as a program gives them that serves a detector: arrays of fixed sizes, with classes as they are named."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.models.detections import Detections


def objects_of(found: Detections, labels: np.ndarray) -> dict[str, Array]:
    """Return what was found after non-maximum suppression, in falling score.

    Args:
        found: in columns of the network's class scores.
        labels: the class of each column, -1 for one that stands for none.

    Returns:
        "boxes" [b, k, 4], x1, y1, x2, y2 in pixels of the network's input; "scores" [b, k], 0 to 1; "classes" int32
        [b, k], by which names are numbered; "valid" [b, k], which of the k places hold an object, the others have box
        and score 0 and class -1; and "masks" [b, k, m, m] of a detector of masks, probabilities within the boxes.
    """
    of_column = jnp.asarray(labels, jnp.int32)[jnp.maximum(found.classes, 0)]
    valid = found.valid & (of_column >= 0)
    objects = {
        "boxes": jnp.where(valid[..., None], found.boxes, 0),
        "scores": jnp.where(valid, found.scores, 0),
        "classes": jnp.where(valid, of_column, -1),
        "valid": valid,
    }
    if found.masks is not None:
        objects["masks"] = jnp.where(valid[..., None, None], found.masks, 0)
    return objects


def candidates_of(
    scores: Float[Array, "b n columns"], boxes: Float[Array, "b n ..."], columns: Sequence[int]
) -> dict[str, Array]:
    """Return all candidates before non-maximum suppression, as programs take them that suppress them.

    Args:
        scores: 0 to 1, of each column of the network's class scores.
        boxes: [b, n, 4]; [b, n, columns, 4] where each column has its own.
        columns: of each class.

    Returns:
        "boxes" [b, n, 4], or [b, n, classes, 4], x1, y1, x2, y2 in pixels of the network's input; and "scores" [b, n,
        classes], in the order of the names.
    """
    first, number = columns[0], len(columns)
    chosen = (
        slice(first, first + number) if tuple(columns) == tuple(range(first, first + number)) else np.array(columns)
    )
    return {"boxes": boxes if boxes.ndim == 3 else boxes[:, :, chosen], "scores": scores[:, :, chosen]}
