"""The last layer of segmentation networks, and the auxiliary head of fully convolutional networks (Long et al., 2015).

Both are mmsegmentation's, whose numbers the papers about ADE20k use.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.conv_norm_relu import ConvNormReLU
from aa_flax.layers.initializers import normal
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.ops import convolution
from aa_flax.precision import at_least_float32


class PixelClassifier(WithMode):
    """Dropout of whole channels, then a 1×1 convolution with bias to the logits of each class at each location.

    The kernel starts at N(0, 0.01²), the bias at 0. Sub-modules: `dropout` (None at rate 0), `out`.

    Raises:
        ValueError: a dropout rate outside [0, 1).
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        dropout_rate: float = 0.1,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {dropout_rate}")
        dropout = nnx.Dropout(dropout_rate, broadcast_dims=(1, 2), deterministic=True) if dropout_rate else None
        self.dropout = dropout
        self.out = nnx.Conv(
            features,
            num_classes,
            (1, 1),
            padding=((0, 0), (0, 0)),
            kernel_init=normal(0.01),
            conv_general_dilated=convolution,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w classes"]:
        """Return the logits in at least float32; in training, dropout draws from the stream "dropout" of `rngs`."""
        if self.dropout is not None and train is not False:
            x = self.dropout(x, deterministic=evaluates(train), rngs=rngs)
        logits = self.out(x)
        return logits.astype(at_least_float32(logits.dtype))


class FCNHead(WithMode):
    """A 3×3 convolution with norm and ReLU, then a classifier of each location.

    Sub-modules: `conv`, `classifier`.

    Args:
        features: channels of the map.
        num_classes: logits at each location.
        width: channels of the convolution.
        dropout_rate: of channels, before the classifier.
        norm: builds the norm.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        width: int = 256,
        dropout_rate: float = 0.1,
        norm: NormFactory = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.conv = ConvNormReLU(features, width, norm=norm, **arrays)
        self.classifier = PixelClassifier(width, num_classes, dropout_rate=dropout_rate, **arrays)

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w classes"]:
        """Return the logits of each class at each location of a map, in at least float32."""
        return self.classifier(self.conv(x, train=train), train=train, rngs=rngs)
