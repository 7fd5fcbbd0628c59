"""PatchConvNet (Touvron et al., 2021, "Augmenting Convolutional networks with attention-based aggregation").

The networks are those of the authors' code, facebookresearch/deit `patchconvnet_models.py`. The figures of the paper
differ from it in the stem, which has no activation after its last convolution and no biases (the authors, issue 151 of
that repository).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers import SqueezeExcite
from aa_flax.layers.drop_path import DropPathRule, drop_path_rates, surviving
from aa_flax.layers.initializers import normal, torch_defaults
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import LayerNorm, batch_norm
from aa_flax.layers.plain_pyramid import PlainPyramid, PyramidOptions
from aa_flax.models.heads import HeadOptions, PoolingFactory, Tokens, classifier, outputs
from aa_flax.models.registry import register
from aa_flax.models.stacked import Trunk
from aa_flax.models.stages import FeatureInfo, require_images, require_rngs, require_sizes
from aa_flax.ops import convolution

Norm = Literal["layer", "batch"]
STRIDE = 16
"""Pixels of the image for each location of the map, along each side."""


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


class Stem(nnx.Module):
    """Four 3×3 convolutions of stride 2, to an eighth, a quarter, a half and all of the width; GELU between them.

    There are no biases and no norms; padding is 1 on every side.
    """

    def __init__(self, in_channels: int, width: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
        sizes = (in_channels, width // 8, width // 4, width // 2, width)
        for i in range(4):
            conv = nnx.Conv(
                sizes[i],
                sizes[i + 1],
                (3, 3),
                strides=2,
                padding=((1, 1), (1, 1)),
                use_bias=False,
                kernel_init=torch_defaults(9 * sizes[i])["kernel_init"],
                conv_general_dilated=convolution,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            setattr(self, f"conv{i + 1}", conv)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws f"]:
        for i in range(4):
            x = getattr(self, f"conv{i + 1}")(x if i == 0 else _gelu(x))
        return x


class PatchConvBlock(WithMode):
    """Block `x + gamma * f(norm(x))`, f = 1×1, GELU, 3×3 depthwise, GELU, squeeze-and-excitation, 1×1; of one width.

    Convolutions have biases; the hidden layer of squeeze-and-excitation has a quarter of the width.
    """

    def __init__(
        self, width: int, *, norm: Norm, layer_scale_init: float, dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ) -> None:
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        def linear(inputs: int, outputs: int, **settings: Any) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, **torch_defaults(inputs), **settings)

        if norm == "batch":
            self.norm: Any = batch_norm(width, **options)
        else:
            self.norm = LayerNorm(width, epsilon=1e-6, **options)
        self.pointwise1 = linear(width, width, **options)
        self.depthwise = nnx.Conv(
            width,
            width,
            (3, 3),
            padding=((1, 1), (1, 1)),
            feature_group_count=width,
            conv_general_dilated=convolution,
            **torch_defaults(9),
            **options,
        )
        # timm rounds a quarter of the width in this way, ties to even.
        self.squeeze_excite = SqueezeExcite(width, hidden_features=max(1, round(width / 4)), linear=linear, **options)
        self.pointwise2 = linear(width, width, **options)
        self.gamma = nnx.Param(jnp.full((width,), layer_scale_init, param_dtype))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, key: Array | None = None, rate: Any = None
    ) -> Float[Array, "b h w c"]:
        """Return the map after the block; in training with a `key`, drop path at `rate` draws from that key."""
        mode = {"use_running_average": evaluates(train)} if isinstance(self.norm, nnx.BatchNorm) else {}
        y = self.norm(x, **mode)
        y = self.depthwise(_gelu(self.pointwise1(y)))
        y = self.pointwise2(self.squeeze_excite(_gelu(y))) * self.gamma[...].astype(self.dtype)[None, None, None]
        if self.trains(train) and key is not None:
            y = surviving(key, y, rate)
        return x + y


@dataclass(frozen=True, kw_only=True)
class PatchConvNetOptions(HeadOptions):
    """Options of a `PatchConvNet`.

    `norm` is "layer" as in the authors' code, or "batch", which according to the authors does better in large batches
    and worse in large networks and at high resolution.

    More blocks in the loop's body (`unroll`) take longer to compile and change nothing else.

    The `drop_path_rate` of the published networks is not known.
    """

    width: int  # channels d; a multiple of 8
    depth: int  # number of blocks
    layer_scale_init: float = 1e-6  # of each block's gamma; 1e-4 in the authors' S60, 1e-6 in their larger networks
    drop_path_rate: float = 0.0  # stochastic depth of all blocks, see aa_flax.layers.drop_path_rates
    drop_path_rule: DropPathRule = "constant"
    norm: Norm = "layer"
    pooling: Literal["average", "attention"] | PoolingFactory = "attention"
    rematerialize: bool = True  # keep only each block's input for the backward pass and compute the rest again
    unroll: int = 1  # number of blocks in the loop's body, up to `depth`


@dataclass(frozen=True, kw_only=True)
class MultiTokenOptions(PatchConvNetOptions):
    """Options of a `PatchConvNet` with a token for each class."""

    pooling_tokens: Tokens = "class"


class PatchConvNet(WithMode):
    """PatchConvNet: a stem of stride 16, blocks of one size and width, attention pooling, classifier.

    Images may have any height and width that 16 divides; there is no position embedding to resize.

    With `pyramid`, as a backbone of detectors and segmentation networks, `features` are maps at strides 4, 8, 16 and 32
    from the outputs of four blocks (`aa_flax.layers.plain_pyramid`). The pooling has no part in them: such networks
    remove it.

    The blocks are stacked and run in a loop (`aa_flax.models.stacked`): arrays at `trunk.blocks` have a leading depth
    axis, and `trunk.block(i)` is block i as a module of its own.

    Args:
        options: options of the network.
        num_classes, in_channels: number of classes, 0 for no classifier, and channels of the images.
        image_size: expected (height, width) of the images; no parameter depends on it.
        pyramid: options of the maps at several strides; None for the last block's map alone.

    Raises:
        ValueError: sizes or options that no such network can have; at call time images that do not fit.
    """

    def __init__(
        self,
        options: PatchConvNetOptions,
        *,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        pyramid: PyramidOptions | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        width, depth, norm = options.width, options.depth, options.norm
        if width < 8 or width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        require_sizes(num_classes, in_channels)
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}")
        _require_size("image_size", *image_size)
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.width = width
        self.in_channels = in_channels
        self.image_size = image_size
        self.drop_path_rate = options.drop_path_rate
        self.stem = Stem(in_channels, width, **arrays)
        make_block = functools.partial(
            PatchConvBlock,
            width,
            norm=norm,
            layer_scale_init=options.layer_scale_init,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.trunk = Trunk(
            lambda rngs: make_block(rngs=rngs),
            drop_path_rates=drop_path_rates(options.drop_path_rate, depth, options.drop_path_rule),
            rematerialize=options.rematerialize,
            unroll=options.unroll,
            rngs=rngs,
        )
        # The authors' code truncates at ±2, which is 100 standard deviations.
        head: dict[str, Any] = dict(layer_scale=options.layer_scale_init, kernel_init=normal(0.02))
        self.pooling, self.head = classifier(width, num_classes, options, **head, **arrays)
        self._taps = pyramid.taps(depth) if pyramid else ()
        norms: dict[str, Any] = dict(norm=pyramid.pyramid_norm, tap_norm=pyramid.pyramid_tap_norm) if pyramid else {}
        self.pyramid = PlainPyramid(width, **norms, **arrays) if pyramid else None
        self.eval()  # the first mode of all modules inside, whatever mode the factories left them in

    def remove_head(self) -> None:
        """Remove what follows the last map of `features`, for a network that takes those maps."""
        self.pooling = self.head = None

    def keep_maps(self, names: Sequence[str]) -> None:
        """Remove all maps of a pyramid but those of these names from `features`, with their parameters."""
        if self.pyramid is not None:
            self.pyramid.keep([level for level in self.pyramid.levels if _stage(level) in names])

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        if self.pyramid is None:
            return {"stage1": FeatureInfo(self.width, STRIDE)}
        return {_stage(level): FeatureInfo(self.width, 2**level) for level in self.pyramid.levels}

    @property
    def depth_groups(self) -> dict[str, int | range]:
        """Return the group of each module, see `aa_flax.models.depth`; the pooling's layer goes with the classifier."""
        return {"stem": 0, "trunk.blocks": range(1, self.trunk.depth + 1)}

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b _"]:
        """Return logits [b, classes] of normalised images [b, h, w, c]; pooled features [b, width] with num_classes=0.

        In training, batch statistics (of norm="batch") are updated in place, and drop path needs `rngs`.

        Raises:
            ValueError: images that do not fit, or drop path in training without `rngs`.
        """
        return outputs(self.pooling, self.head, self._maps(images, train=train, rngs=rngs)[0])

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the map "stage1" [b, h/16, w/16, width] after the last block; training draws drop path from `rngs`.

        With a pyramid they are the maps "stage1" to "stage4" at strides 4, 8, 16 and 32, the last of them
        [b, ceil(h/32), ceil(w/32), width]; batch statistics of the pyramid are updated in training.
        """
        if self.pyramid is None:
            return {"stage1": self._maps(images, train=train, rngs=rngs)[0]}
        taps = {level: self._taps[level - 2] for level in self.pyramid.levels}
        maps = self._maps(images, train=train, rngs=rngs, keep=sorted({*taps.values()}))[1]
        found = self.pyramid({level: maps[block] for level, block in taps.items()}, train=train)
        return {_stage(level): x for level, x in found.items()}

    def block_features(
        self,
        images: Float[Array, "b h w c"],
        *,
        blocks: Sequence[int],
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, Float[Array, "b hs ws f"]]:
        """Return the maps [b, h/16, w/16, width] after the blocks with the given numbers, counted from 0.

        The maps of other blocks are not kept. For example, (14, 29, 44, 59) are the ends of the quarters of a network
        of depth 60.

        Raises:
            ValueError: `blocks` has a number that no block has, or the same number twice.
        """
        return self._maps(images, train=train, rngs=rngs, keep=blocks)[1]

    def _maps(
        self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None, keep: Sequence[int] = ()
    ) -> tuple[Array, dict[int, Array]]:
        require_images(images, self.in_channels)
        _require_size("images", *images.shape[1:3])
        require_rngs(self.trains(train), rngs, drop_path=self.drop_path_rate)
        return self.trunk(self.stem(images), train=train, rngs=rngs, keep=keep)


def _stage(level: int) -> str:
    """Return the name of a pyramid's map; level l has a stride of 2**l."""
    return f"stage{level - 1}"


def _require_size(name: str, height: int, width: int) -> None:
    """Raise a ValueError that names the nearest accepted size, unless `STRIDE` divides height and width."""
    if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
        nearest = "×".join(str(max(1, round(side / STRIDE)) * STRIDE) for side in (height, width))
        raise ValueError(
            f"{name} must have a height and a width that {STRIDE} divides, got {height}×{width}; {nearest} would do"
        )


# Width, depth, and the initial value of the gammas of blocks and attention pooling.
_SIZES = {
    "s60": (384, 60, 1e-4),
    "s120": (384, 120, 1e-6),
    "b60": (768, 60, 1e-6),
    "b120": (768, 120, 1e-6),
    "l60": (1024, 60, 1e-6),
    "l120": (1024, 120, 1e-6),
    "s60_multi": (384, 60, 1e-4),
}


for _size, (_width, _depth, _layer_scale) in _SIZES.items():
    register(
        f"patchconvnet_{_size}",
        PatchConvNet,
        MultiTokenOptions if _size.endswith("_multi") else PatchConvNetOptions,
        defaults={"width": _width, "depth": _depth, "layer_scale_init": _layer_scale},
        num_classes=1000,
        image_size=(224, 224),
        strides=(STRIDE,),
        # A backbone has no tokens: the network with a token for each class would be the same one twice.
        pyramid=None if _size.endswith("_multi") else PyramidOptions,
    )
