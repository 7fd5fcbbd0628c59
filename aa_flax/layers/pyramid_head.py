"""A head that every level of a pyramid shares but for its batch norms; RetinaNet has two (Lin et al., 2017b)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import normal
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory
from aa_flax.ops import convolution
from aa_flax.precision import at_least_float32


class PyramidHead(WithMode):
    """`depth` times a 3×3 convolution, (a norm) and ReLU, then a 3×3 to `outputs` numbers at each location.

    All convolutions have biases, serve every level, and start at N(0, 0.01), biases at 0. The norms, if there are any,
    are each level's own, with its own statistics. Sub-modules `conv1` ..., `norm1_level3` ..., and `out`.

    Args:
        in_features: channels of the maps.
        outputs: numbers at each location.
        levels: the levels of the pyramid.
        depth: convolutions before the last one.
        width: their channels.
        prior: None, or the probability that the sigmoid of every output starts at.
        norm: builds the norms, None for none.

    Raises:
        ValueError: a negative depth, no channels, or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_features: int,
        outputs: int,
        *,
        levels: Sequence[int],
        depth: int = 4,
        width: int = 256,
        prior: float | None = None,
        norm: NormFactory | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 0 or width < 1:
            raise ValueError(f"depth must be at least 0 and width at least 1, got {depth} and {width}")
        if prior is not None and not 0 < prior < 1:
            raise ValueError(f"prior must be a probability between 0 and 1, got {prior}")
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        start = 0.0 if prior is None else -math.log((1 - prior) / prior)
        options: dict[str, Any] = dict(
            kernel_size=(3, 3), padding=((1, 1), (1, 1)), kernel_init=normal(0.01), conv_general_dilated=convolution
        )
        self.depth, self.levels, self.has_norms = depth, tuple(levels), norm is not None
        features = in_features
        for i in range(depth):
            setattr(self, f"conv{i + 1}", nnx.Conv(features, width, **options, **arrays))
            if norm is not None:
                for level in self.levels:
                    setattr(self, f"norm{i + 1}_level{level}", norm(width, **arrays))
            features = width
        self.out = nnx.Conv(features, outputs, bias_init=nnx.initializers.constant(start), **options, **arrays)

    def __call__(
        self, maps: Mapping[int, Float[Array, "b _h _w _c"]], *, train: bool | None = None
    ) -> dict[int, Float[Array, "b _h _w _o"]]:
        """Return the numbers at each location of each level's map, in at least float32."""
        found = {}
        for level in self.levels:
            x = maps[level]
            for i in range(1, self.depth + 1):
                x = getattr(self, f"conv{i}")(x)
                if self.has_norms:
                    x = getattr(self, f"norm{i}_level{level}")(x, use_running_average=evaluates(train))
                x = jax.nn.relu(x)
            y = self.out(x)
            found[level] = y.astype(at_least_float32(y.dtype))
        return found
