"""The head of a region proposal network (Ren et al., 2015), shared by the levels of a pyramid."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import normal
from aa_flax.layers.mode import WithMode
from aa_flax.ops import convolution
from aa_flax.precision import at_least_float32


class ProposalHead(WithMode):
    """`depth` times a 3×3 convolution and ReLU, then two 1×1 convolutions: objectness, and how to move each anchor.

    All have biases, serve every level, and start at N(0, 0.01), biases at 0. Sub-modules `conv1` ..., `objectness` and
    `deltas`.

    Args:
        in_features: channels of the maps.
        anchors: of a place.
        depth: 3×3 convolutions.
        width: their channels.
    """

    def __init__(
        self,
        in_features: int,
        anchors: int,
        *,
        depth: int = 1,
        width: int = 256,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = dict(
            kernel_init=normal(0.01),
            conv_general_dilated=convolution,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.depth = depth
        features = in_features
        for i in range(depth):
            setattr(self, f"conv{i + 1}", nnx.Conv(features, width, (3, 3), padding=((1, 1), (1, 1)), **options))
            features = width
        pointwise: dict[str, Any] = dict(kernel_size=(1, 1), padding=((0, 0), (0, 0)), **options)
        self.objectness = nnx.Conv(features, anchors, **pointwise)
        self.deltas = nnx.Conv(features, 4 * anchors, **pointwise)

    def __call__(
        self, maps: Mapping[int, Float[Array, "b _h _w _c"]]
    ) -> tuple[dict[int, Float[Array, "b _h _w _a"]], dict[int, Float[Array, "b _h _w _d"]]]:
        """Return the logits of objectness, and the four numbers of each anchor, by level, in at least float32."""
        objectness: dict[int, Array] = {}
        deltas: dict[int, Array] = {}
        for level, x in maps.items():
            for i in range(1, self.depth + 1):
                x = jax.nn.relu(getattr(self, f"conv{i}")(x))
            for found, out in ((objectness, self.objectness), (deltas, self.deltas)):
                y = out(x)
                found[level] = y.astype(at_least_float32(y.dtype))
        return objectness, deltas
