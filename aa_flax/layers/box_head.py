"""The head that names a region and moves its box (Girshick, 2015; Lin et al., 2017)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import normal, torch_defaults, variance_scaling
from aa_flax.layers.mode import WithMode
from aa_flax.precision import at_least_float32

HeadInit = Literal["torchvision", "detectron2"]


class BoxHead(WithMode):
    """`depth` times a linear layer and ReLU on a region's features, then one for its class and one for its boxes.

    The features of a region are flattened in the order row, column, channel. A region has a box for every class.
    Sub-modules `fc1` ..., `classes` and `boxes`.

    Args:
        in_features: numbers of a region.
        score_columns: classes, background included.
        box_columns: classes that have a box.
        depth: linear layers before the last ones.
        width: their outputs.
        init: "torchvision": PyTorch's default, uniform within ±1 / sqrt(fan in), biases too; "detectron2": uniform of
            variance 1 / fan in, N(0, 0.01) for classes and N(0, 0.001) for boxes, biases 0.
    """

    def __init__(
        self,
        in_features: int,
        score_columns: int,
        box_columns: int,
        *,
        depth: int = 2,
        width: int = 1024,
        init: HeadInit = "torchvision",
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        def linear(features: int, outputs: int, kernel_init: nnx.Initializer) -> nnx.Linear:
            inits = torch_defaults(features) if init == "torchvision" else {"kernel_init": kernel_init}
            return nnx.Linear(features, outputs, **inits, **arrays)

        self.depth = depth
        features = in_features
        for i in range(depth):
            setattr(self, f"fc{i + 1}", linear(features, width, variance_scaling(1.0, "fan_in", "uniform")))
            features = width
        self.classes = linear(features, score_columns, normal(0.01))
        self.boxes = linear(features, 4 * box_columns, normal(0.001))

    def __call__(self, regions: Float[Array, "b n h w c"]) -> dict[str, Array]:
        """Return {"classes": logits [b, n, columns], "boxes": [b, n, columns, 4]} of regions, in at least float32."""
        batch, number = regions.shape[:2]
        x = regions.reshape(batch, number, -1)
        for i in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"fc{i}")(x))
        classes, boxes = self.classes(x), self.boxes(x)
        precise = at_least_float32(classes.dtype)
        return {
            "classes": classes.astype(precise),
            "boxes": boxes.astype(precise).reshape(batch, number, boxes.shape[-1] // 4, 4),
        }
