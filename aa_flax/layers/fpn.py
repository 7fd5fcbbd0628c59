"""Feature pyramid network (Lin et al., 2017), with its own extra level or those of RetinaNet (Lin et al., 2017b)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import glorot_uniform, variance_scaling
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory
from aa_flax.ops import convolution
from aa_flax.ops.max_pooling import Padding

ExtraFrom = Literal["pyramid", "backbone", "pooling"]
PyramidInit = Literal["glorot", "fan_in"]
_INITS = {"glorot": glorot_uniform, "fan_in": variance_scaling(1.0, "fan_in", "uniform")}
MOST_EXTRA = 8
"""How many levels above the backbone's coarsest a pyramid may have; the last has a stride of some thousand pixels."""


def nearest(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Return the map resized to height × width by repetition: location i of n is floor(i · side / n) of the old side.

    This is the nearest interpolation of PyTorch to a given size. A side of 2n or 2n - 1 repeats each location twice,
    the last one once if the side is odd.
    """
    for axis, side in ((1, height), (2, width)):
        before = x.shape[axis]
        if side in (2 * before, 2 * before - 1):  # without a gather, which an accelerator takes longer for
            shape = (*x.shape[: axis + 1], 2, *x.shape[axis + 1 :])
            twice = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
            x = twice.reshape(*x.shape[:axis], 2 * before, *x.shape[axis + 1 :])
            x = jax.lax.slice_in_dim(x, 0, side, axis=axis)
        elif side != before:
            x = jnp.take(x, np.arange(side) * before // side, axis)
    return x


class FPN(WithMode):
    """Maps of one width at the levels of a pyramid, level l with a stride of 2**l pixels, from maps of a backbone.

        M_l = lateral_l(C_l) + nearest(M_{l+1})        the coarsest of the backbone's levels without the second term
        P_l = output_l(M_l)
        P_{c+1} = extra_{c+1}(P_c or C_c), P_{l+1} = extra_{l+1}(relu(P_l))        c the backbone's coarsest level

    `lateral` is 1×1, `output` 3×3 and `extra` 3×3 at stride 2, all with bias. With "pooling", as in the detectors of
    Lin et al. (2017), an extra level is every second location of the one below, and has no convolution. Where a side is
    odd, the upper map is resized to the size of the lower one. If there is a norm, each level's own comes last, without
    activation: the extra levels read maps before it.

    Sub-modules are named by level: `lateral3`, `output3`, `extra6`, `norm3`.

    Args:
        channels: channels of the backbone's maps by level, finest first, of consecutive levels.
        width: channels of every map of the pyramid.
        max_level: the coarsest level; above the backbone's coarsest each has an extra convolution.
        extra_from: whether the first extra level is computed from the last "pyramid" map or "backbone" map, or all of
            them by "pooling".
        padding: of the convolutions at stride 2: "same" is TensorFlow's, where an even side has one row after it and
            none before; "symmetric" is PyTorch's, one before and one after.
        norm: builds the norm of each level, None for no norms.
        init: of the kernels, uniform: "glorot" by both fans, TensorFlow's; "fan_in" of variance 1 / fan in, which
            torchvision and detectron2 have (`kaiming_uniform_` with a = 1).

    Raises:
        ValueError: no levels, levels with gaps, or settings that no pyramid can have.
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        width: int = 256,
        max_level: int = 7,
        extra_from: ExtraFrom = "pyramid",
        padding: Padding = "same",
        norm: NormFactory | None = None,
        init: PyramidInit = "glorot",
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        levels = tuple(channels)
        if not levels or levels != tuple(range(levels[0], levels[-1] + 1)):
            raise ValueError(f"channels must be those of consecutive levels, finest first, got levels {levels}")
        if not levels[-1] <= max_level <= levels[-1] + MOST_EXTRA:
            raise ValueError(
                f"max_level must lie in [{levels[-1]}, {levels[-1] + MOST_EXTRA}], from the coarsest level that the "
                f"backbone gives, got {max_level}"
            )
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        for name, choice, accepted in (
            ("extra_from", extra_from, get_args(ExtraFrom)),
            ("padding", padding, get_args(Padding)),
            ("init", init, get_args(PyramidInit)),
        ):
            if choice not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {choice!r}")
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        options: dict[str, Any] = dict(kernel_init=_INITS[init], conv_general_dilated=convolution, **arrays)
        around = ((1, 1), (1, 1))
        self.given, self.levels = levels, tuple(range(levels[0], max_level + 1))
        self.width, self.extra_from = width, extra_from
        for level in levels:
            setattr(self, f"lateral{level}", nnx.Conv(channels[level], width, (1, 1), padding=((0, 0),) * 2, **options))
            setattr(self, f"output{level}", nnx.Conv(width, width, (3, 3), padding=around, **options))
        for level in self.extra if extra_from != "pooling" else ():
            first = level == levels[-1] + 1 and extra_from == "backbone"
            conv = nnx.Conv(
                channels[levels[-1]] if first else width,
                width,
                (3, 3),
                strides=2,
                padding="SAME" if padding == "same" else around,
                **options,
            )
            setattr(self, f"extra{level}", conv)
        self.has_norms = norm is not None
        if norm is not None:
            for level in self.levels:
                setattr(self, f"norm{level}", norm(width, **arrays))

    @property
    def extra(self) -> tuple[int, ...]:
        """Return the levels above the backbone's coarsest one."""
        return self.levels[len(self.given) :]

    def __call__(
        self, maps: Mapping[int, Float[Array, "b _h _w _c"]], *, train: bool | None = None
    ) -> dict[int, Float[Array, "b _hs _ws {self.width}"]]:
        """Return the pyramid's maps by level, finest first, of the backbone's maps by level; others are not read."""
        tops: dict[int, Array] = {}
        for level in reversed(self.given):
            x = self._part("lateral", level)(maps[level])
            above = tops.get(level + 1)
            tops[level] = x if above is None else x + nearest(above, *x.shape[1:3])
        pyramid = {level: self._part("output", level)(tops[level]) for level in self.given}
        last = self.given[-1]
        for level in self.extra:
            below = pyramid[level - 1]
            if self.extra_from == "pooling":
                pyramid[level] = below[:, ::2, ::2]
                continue
            first = maps[last] if self.extra_from == "backbone" else below
            pyramid[level] = self._part("extra", level)(first if level == last + 1 else jax.nn.relu(below))
        if not self.has_norms:
            return pyramid
        running = evaluates(train)
        return {level: self._part("norm", level)(x, use_running_average=running) for level, x in pyramid.items()}

    def _part(self, kind: str, level: int) -> Any:
        return getattr(self, f"{kind}{level}")
