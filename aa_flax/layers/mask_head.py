"""The head that draws a region's mask (He et al., 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.box_head import HeadInit
from aa_flax.layers.initializers import he_normal_fan_out, normal
from aa_flax.layers.mode import WithMode
from aa_flax.layers.transposed_conv import TransposedConv2x2
from aa_flax.ops import convolution
from aa_flax.precision import at_least_float32


class MaskHead(WithMode):
    """`depth` times a 3×3 convolution and ReLU, a transposed 2×2 one of stride 2 and ReLU, then a 1×1 to the classes.

    All have biases. Kernels start with variance 2 / fan out, with `init` "detectron2" those of the last layer at N(0,
    0.001), biases at 0; torchvision leaves the biases of the last two layers at PyTorch's uniform ones. Sub-modules
    `conv1` ..., `upsample` and `out`.

    Args:
        in_features: channels of the regions.
        columns: masks of each region, one a class.
        depth: 3×3 convolutions.
        width: channels of all layers but the last.
        init: see above.
    """

    def __init__(
        self,
        in_features: int,
        columns: int,
        *,
        depth: int = 4,
        width: int = 256,
        init: HeadInit = "torchvision",
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        options: dict[str, Any] = dict(conv_general_dilated=convolution, **arrays)
        self.depth = depth
        features = in_features
        for i in range(depth):
            conv = nnx.Conv(features, width, (3, 3), padding=((1, 1), (1, 1)), kernel_init=he_normal_fan_out, **options)
            setattr(self, f"conv{i + 1}", conv)
            features = width
        self.upsample = TransposedConv2x2(
            features, width, kernel_init=he_normal_fan_out, bias_init=nnx.initializers.zeros_init(), **arrays
        )
        last = he_normal_fan_out if init == "torchvision" else normal(0.001)
        self.out = nnx.Conv(width, columns, (1, 1), padding=((0, 0), (0, 0)), kernel_init=last, **options)

    def __call__(self, regions: Float[Array, "b n h w c"]) -> Float[Array, "b n H W columns"]:
        """Return the logits of each class's mask, twice as high and wide as the regions, in at least float32."""
        batch, number = regions.shape[:2]
        x = regions.reshape(batch * number, *regions.shape[2:])
        for i in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"conv{i}")(x))
        masks = self.out(jax.nn.relu(self.upsample(x)))
        return masks.reshape(batch, number, *masks.shape[1:]).astype(at_least_float32(masks.dtype))
