"""Wide residual networks (Zagoruyko & Komodakis, 2016) as in Table 1 of Bello et al. (2019): plain, SE, GE and AA."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from aa_flax.layers.convolve import convolve, valid_after
from aa_flax.layers.drop_path import DropPathRule, drop_path, drop_path_rates
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.models.activated import convolve_activated, normed
from aa_flax.models.depth import blocks_of_stages
from aa_flax.models.factories import (
    AugmentedConvFactory,
    AugmentedWeightedConvFactory,
    ConvFactory,
    RecalibrationFactory,
    WeightedConvFactory,
    plain_conv,
)
from aa_flax.models.heads import HeadOptions, classifier, outputs
from aa_flax.models.recalibration import GatherExciteFactory, SqueezeExciteFactory, no_recalibration
from aa_flax.models.registry import register
from aa_flax.models.stages import (
    FeatureInfo,
    require_images,
    require_rngs,
    require_sizes,
    require_valid,
    residual_stage,
)
from aa_flax.ops import average_pool
from aa_flax.ops.resampling import average_pool_valid

Shortcut = Literal["parameter_free", "projection"]


def parameter_free_shortcut(
    x: Float[Array, "b *space c"], strides: int, features: int, valid: Bool[Array, "b *space"] | None = None
) -> Float[Array, "b *slid f"]:
    """Return the map average-pooled by the stride, with zero channels added before and after its own.

    With `valid`, the means are those of the valid locations.
    """
    if strides > 1 and valid is not None:
        x = average_pool_valid(x, valid, strides, window=strides)
    elif strides > 1:
        x = average_pool(x, strides, window=strides)
    missing = features - x.shape[-1]
    return jnp.pad(x, [*((0, 0),) * (x.ndim - 1), (missing // 2, missing - missing // 2)])


class PreActivationBlock(WithMode):
    """Block: bn1, relu, conv1, bn2, relu, (dropout), conv2, (recalibration), added to the shortcut.

    The factory `conv` builds `conv1`, which has the stride; `bn2` normalises its convolution and attention together. A
    projection shortcut starts after bn1 and relu, every other shortcut at the block's input.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        strides: int,
        map_shape: tuple[int, ...],
        stage: int,
        conv: ConvFactory,
        second_conv: ConvFactory,
        norm: NormFactory,
        recalibration: RecalibrationFactory,
        shortcut: Shortcut,
        dropout_rate: float,
        drop_path_rate: float,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.drop_path_rate = drop_path_rate
        self.features = features
        self.strides = strides
        self.changes = strides > 1 or in_features != features
        self.bn1 = norm(in_features, **options)
        place: dict[str, Any] = dict(map_shape=map_shape, stage=stage, **options)
        self.conv1 = conv(in_features, features, 3, strides=strides, **place)
        self.bn2 = norm(features, **options)
        self.dropout = nnx.Dropout(dropout_rate, deterministic=True) if dropout_rate else None
        self.conv2 = second_conv(features, features, 3, strides=1, **place)
        self.recalibration = recalibration(features, map_shape=map_shape, **options)
        projects = shortcut == "projection" and self.changes
        shape: dict[str, Any] = dict(map_shape=map_shape, strides=strides)
        self.shortcut = plain_conv(in_features, features, 1, **shape, **options) if projects else None

    def __call__(
        self,
        x: Float[Array, "b *space c"],
        *,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> Float[Array, "b *slid f"]:
        """Return the map after the block; in training drop path and dropout draw from `rngs`."""
        seen = None if valid is None else valid_after(valid, self.strides)
        if self.shortcut is None:
            skipped = parameter_free_shortcut(x, self.strides, self.features, valid) if self.changes else x
            y = convolve_activated(self.bn1, self.conv1, x, train=train, recompute=True, valid=valid)
        else:
            activated = jax.nn.relu(normed(self.bn1, x, train=train, valid=valid))
            skipped = convolve(self.shortcut, activated, train=train, valid=valid)
            y = convolve(self.conv1, activated, train=train, valid=valid)
        y = jax.nn.relu(normed(self.bn2, y, train=train, valid=seen))
        if self.dropout is not None and train is not False:
            y = self.dropout(y, deterministic=evaluates(train), rngs=rngs)
        y = convolve(self.conv2, y, train=train, valid=seen)
        if self.recalibration is not None:
            y = self.recalibration(y, train=train)
        return drop_path(y, self.drop_path_rate, train=self.trains(train), rngs=rngs) + skipped


@dataclass(frozen=True, kw_only=True)
class WideResNetOptions(HeadOptions):
    """Options of a `WideResNet`.

    `shortcut` is used in blocks that change size or width: "parameter_free" is average pooling and zero channels (only
    this gives the 36.3 M parameters that the paper prints), "projection" a strided 1×1 convolution (36.5 M).

    `long_skips` adds shortcuts without parameters around each stage and around all three. The code base that the
    paper's baseline seems to come from has them; the paper does not mention them.
    """

    depth: int = 28  # 6n + 4
    widen_factor: int = 10  # stages have 16, 32 and 64 times this many channels
    conv: ConvFactory = plain_conv  # of each block's first convolution; attention in all three stages (section 4.1)
    second_conv: ConvFactory = plain_conv  # of each block's second convolution
    recalibration: RecalibrationFactory = no_recalibration  # follows each residual branch (SE, GE)
    norm: NormFactory = batch_norm
    shortcut: Shortcut = "parameter_free"
    long_skips: bool = False
    dropout_rate: float = 0.0  # between the two convolutions of a block; the paper mentions none
    drop_path_rate: float = 0.0  # stochastic depth of all blocks, see aa_flax.layers.drop_path_rates
    drop_path_rule: DropPathRule = "linear"


class WideResNet(WithMode):
    """WRN-depth-widen_factor: a 3×3 stem to 16 channels, three stages of (depth - 4) / 6 blocks, pooling, classifier.

    Batch norm and ReLU come before the pooling.

    With an `image_size` of one number, (length,), it is a network of signals, with three, (depth, height, width), one
    of volumes: kernels, strides and positions have as many dimensions. These have no recalibration, no AW-convolution
    and no attention pooling, which are of maps.

    Raises:
        ValueError: options that no such network can have; at call time images that do not fit.
    """

    def __init__(
        self,
        options: WideResNetOptions = WideResNetOptions(),
        *,
        num_classes: int = 100,
        image_size: tuple[int, ...] = (32, 32),
        in_channels: int = 3,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        depth, widen_factor = options.depth, options.widen_factor
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n at least 1 (10, 16, 22, 28, ...), got {depth}")
        if widen_factor < 1:
            raise ValueError(f"widen_factor must be at least 1, got {widen_factor}")
        require_sizes(num_classes, in_channels)
        if options.shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be one of {get_args(Shortcut)}, got {options.shortcut!r}")
        of_maps = {"recalibration": no_recalibration, "second_conv": plain_conv, "pooling": "average"}
        given = [name for name, plain in of_maps.items() if getattr(options, name) != plain]
        if len(image_size) != 2 and given:
            raise ValueError(f"{', '.join(given)} must be plain in a network of signals or volumes, {image_size}")
        if not 0 <= options.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {options.dropout_rate}")
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        widths = [16 * widen_factor * 2**i for i in range(3)]
        self.widths = tuple(widths)
        self.in_channels = in_channels
        self.image_size = image_size
        self.long_skips = options.long_skips
        self.dropout_rate = options.dropout_rate
        self.drop_path_rate = options.drop_path_rate
        count = (depth - 4) // 6
        rates = drop_path_rates(options.drop_path_rate, 3 * count, options.drop_path_rule)
        self.stem = plain_conv(in_channels, 16, 3, map_shape=image_size, **arrays)
        in_features = 16
        for i, (width, strides, stride) in enumerate(zip(widths, (1, 2, 2), (1, 2, 4), strict=True)):
            stage = residual_stage(
                PreActivationBlock,
                rates[i * count : (i + 1) * count],
                in_features,
                width,
                strides=strides,
                map_shape=tuple(math.ceil(side / stride) for side in image_size),
                stage=i + 1,
                conv=options.conv,
                second_conv=options.second_conv,
                norm=options.norm,
                recalibration=options.recalibration,
                shortcut=options.shortcut,
                dropout_rate=options.dropout_rate,
                **arrays,
            )
            setattr(self, f"stage{i + 1}", stage)
            in_features = width
        self.bn = options.norm(in_features, **arrays)
        self.pooling, self.head = classifier(in_features, num_classes, options, **arrays)
        self.eval()  # the first mode of all modules inside, whatever mode the factories left them in

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return {f"stage{i + 1}": FeatureInfo(width, 2**i) for i, width in enumerate(self.widths)}

    @property
    def depth_groups(self) -> dict[str, int]:
        """Return the group of each module, see `aa_flax.models.depth`; the last batch norm goes with the classifier."""
        return {"stem": 0, **blocks_of_stages({name: getattr(self, name).blocks for name in self.feature_info})}

    def __call__(
        self,
        images: Float[Array, "b *space c"],
        *,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> Float[Array, "b _"]:
        """Return logits [b, classes] of normalised images [b, h, w, c]; pooled features [b, width] with num_classes=0.

        In training, the statistics of the batch normalise and the running statistics are updated in place; dropout
        and drop path need `rngs`. `valid` says which locations are there, of signals or volumes that are padded at
        their ends: a padded one gives what it gives alone.

        Raises:
            ValueError: images that do not fit, or dropout or drop path in training without `rngs`.
        """
        last = self._stages(images, train=train, rngs=rngs, valid=valid)["stage3"]
        return outputs(self.pooling, self.head, last, None if valid is None else valid_after(valid, 4))

    def features(
        self,
        images: Float[Array, "b *space c"],
        *,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> dict[str, Array]:
        """Return the maps "stage1", "stage2" and "stage3".

        Blocks are pre-activated, so the first two are sums without activation; the last is the map after the final
        batch norm and ReLU. In training they are those of the call in training, with dropout and drop path. Where
        locations are not `valid`, the maps have no meaning.
        """
        return self._stages(images, train=train, rngs=rngs, valid=valid)

    def _stages(
        self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None, valid: Array | None
    ) -> dict[str, Array]:
        require_images(images, self.in_channels, len(self.image_size))
        require_valid(valid, images)
        require_rngs(self.trains(train), rngs, dropout=self.dropout_rate, drop_path=self.drop_path_rate)
        start = convolve(self.stem, images, train=train, valid=valid)
        x, seen, starting = start, valid, valid
        maps = {}
        for i, width in enumerate(self.widths):
            before, strides = x, 1 if i == 0 else 2
            x = getattr(self, f"stage{i + 1}")(x, train=train, rngs=rngs, valid=seen)
            if self.long_skips:
                x = x + parameter_free_shortcut(before, strides, width, seen)
            seen = None if seen is None else valid_after(seen, strides)
            maps[f"stage{i + 1}"] = x
        if self.long_skips:
            for strides in (2, 2):
                start = parameter_free_shortcut(start, strides, start.shape[-1], starting)
                starting = None if starting is None else valid_after(starting, strides)
            x = x + parameter_free_shortcut(start, 1, self.widths[-1])
        maps["stage3"] = jax.nn.relu(normed(self.bn, x, train=train, valid=seen))
        return maps


# For each prefix of a name, the options of WideResNet that factories fill, and the factories.
_VARIANTS: dict[str, dict[str, type]] = {
    "": {},
    "se_": {"recalibration": SqueezeExciteFactory},
    "ge_": {"recalibration": GatherExciteFactory},
    "aa_": {"conv": AugmentedConvFactory},
}
# The same with the convolutions of Zhu et al. (2021), which are both convolutions of a block.
_WEIGHTED: dict[str, type] = {"conv": WeightedConvFactory, "second_conv": WeightedConvFactory}
_VARIANTS |= {f"aw_{prefix}": {**_WEIGHTED, **plugs} for prefix, plugs in _VARIANTS.items()}
_VARIANTS["aw_aa_"]["conv"] = AugmentedWeightedConvFactory

# WRN-28-10 of Table 1: 36.3 M parameters and 80.3 % on CIFAR-100, with SE 36.5 M (without biases) and 81.0 %, with
# parameter-free GE 36.3 M and 79.8 %, augmented 36.2 M and 81.6 %. The paper's own rules give 36.05 M for the augmented
# one; the difference is unexplained.
for _prefix, _plugs in _VARIANTS.items():
    register(
        f"{_prefix}wide_resnet28_10",
        WideResNet,
        WideResNetOptions,
        plugs=_plugs,
        defaults={"squeeze_excite_bias": False} if "se_" in _prefix else {},
        num_classes=100,
        image_size=(32, 32),
        strides=(1, 2, 4),
        dimensions=(1, 2, 3),
    )
