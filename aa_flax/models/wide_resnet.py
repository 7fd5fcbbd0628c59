"""Wide residual networks (Zagoruyko & Komodakis, 2016) as in Table 1 of Bello et al. (2019): plain, SE, GE and AA."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.convolve import convolve
from aa_flax.layers.drop_path import DropPathRule, drop_path, drop_path_rates
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.models.activated import convolve_activated
from aa_flax.models.factories import (
    ConvFactory,
    RecalibrationFactory,
    augmented_conv,
    augmented_weighted_conv,
    gather_excite,
    no_recalibration,
    plain_conv,
    plug,
    squeeze_excite,
    weighted_conv,
)
from aa_flax.models.heads import PoolingFactory, average, classifier, pooled, with_pooling
from aa_flax.models.registry import register
from aa_flax.models.stages import FeatureInfo, require_images, require_rngs, residual_stage
from aa_flax.ops import average_pool

Shortcut = Literal["parameter_free", "projection"]


def parameter_free_shortcut(x: Float[Array, "b h w c"], strides: int, features: int) -> Float[Array, "b hs ws f"]:
    """Average-pooled by the stride, with zero channels added on both sides."""
    if strides > 1:
        x = average_pool(x, strides, window=strides)
    missing = features - x.shape[-1]
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])


class PreActivationBlock(nnx.Module):
    """bn1, relu, conv1, bn2, relu, (dropout), conv2, (recalibration), added to the shortcut.

    `conv1` comes from the factory and carries the stride; batch norm after it sees convolution and attention together.
    A projecting shortcut starts after bn1 and relu, every other before.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        strides: int,
        map_shape: tuple[int, int],
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
        self.dropout = nnx.Dropout(dropout_rate, deterministic=None) if dropout_rate else None
        self.conv2 = second_conv(features, features, 3, strides=1, **place)
        self.recalibration = recalibration(features, map_shape=map_shape, **options)
        projects = shortcut == "projection" and self.changes
        self.shortcut = plain_conv(in_features, features, 1, strides=strides, **options) if projects else None

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "b hs ws f"]:
        if self.shortcut is None:
            skipped = parameter_free_shortcut(x, self.strides, self.features) if self.changes else x
            y = convolve_activated(self.bn1, self.conv1, x, train=train, recompute=True)
        else:
            activated = jax.nn.relu(self.bn1(x, use_running_average=not train))
            skipped = self.shortcut(activated)
            y = convolve(self.conv1, activated, train=train)
        y = jax.nn.relu(self.bn2(y, use_running_average=not train))
        if self.dropout is not None:
            y = self.dropout(y, deterministic=not train, rngs=rngs)
        y = convolve(self.conv2, y, train=train)
        if self.recalibration is not None:
            y = self.recalibration(y, train=train)
        return drop_path(y, self.drop_path_rate, train=train, rngs=rngs) + skipped


class WideResNet(nnx.Module):
    """WRN-depth-widen_factor: a 3×3 stem of 16, three stages of (depth - 4) / 6 blocks, batch norm, mean, classifier.

    Args:
        depth, widen_factor: 28 and 10 in the paper; stages have 16, 32 and 64 times widen_factor channels.
        conv: factory of each block's first convolution; here attention augments (all three stages, section 4.1).
        second_conv: factory of each block's second one.
        recalibration: factory of what follows each residual branch (SE, GE).
        norm: factory of the normalisations.
        pooling: factory of what stands between the last map and the classifier.
        shortcut: where size or width changes, "parameter_free" (average pooling and zero channels: only this gives the
            36.3 M parameters that the paper prints) or "projection" (a strided 1×1 convolution: 36.5 M).
        long_skips: adds shortcuts, likewise without parameters, around each stage and around all three. The code base
            that the paper's baseline seems to come from has them; the paper does not mention them. Off by default.
        dropout_rate: between the two convolutions; the paper mentions none.
        drop_path_rate, drop_path_rule: stochastic depth, see `aa_flax.layers.drop_path_rates`; of all blocks.
    """

    def __init__(
        self,
        *,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int = 100,
        image_size: tuple[int, int] = (32, 32),
        in_channels: int = 3,
        conv: ConvFactory = plain_conv,
        second_conv: ConvFactory = plain_conv,
        recalibration: RecalibrationFactory = no_recalibration,
        norm: NormFactory = batch_norm,
        pooling: PoolingFactory = average,
        shortcut: Shortcut = "parameter_free",
        long_skips: bool = False,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_rule: DropPathRule = "linear",
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n at least 1 (10, 16, 22, 28, ...), got {depth}")
        if widen_factor < 1 or num_classes < 1 or in_channels < 1:
            raise ValueError(
                "widen_factor, num_classes and in_channels must be at least 1, "
                f"got {widen_factor}, {num_classes} and {in_channels}"
            )
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be one of {get_args(Shortcut)}, got {shortcut!r}")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {dropout_rate}")
        options = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        widths = [16 * widen_factor * 2**i for i in range(3)]
        self.widths = tuple(widths)
        self.in_channels = in_channels
        self.image_size = image_size
        self.long_skips = long_skips
        self.dropout_rate = dropout_rate
        self.drop_path_rate = drop_path_rate
        count = (depth - 4) // 6
        rates = drop_path_rates(drop_path_rate, 3 * count, drop_path_rule)
        self.stem = plain_conv(in_channels, 16, 3, **options)
        in_features = 16
        for i, (width, strides, stride) in enumerate(zip(widths, (1, 2, 2), (1, 2, 4), strict=True)):
            stage = residual_stage(
                PreActivationBlock,
                rates[i * count : (i + 1) * count],
                in_features,
                width,
                strides=strides,
                map_shape=(math.ceil(image_size[0] / stride), math.ceil(image_size[1] / stride)),
                stage=i + 1,
                conv=conv,
                second_conv=second_conv,
                norm=norm,
                recalibration=recalibration,
                shortcut=shortcut,
                dropout_rate=dropout_rate,
                **options,
            )
            setattr(self, f"stage{i + 1}", stage)
            in_features = width
        self.bn = norm(in_features, **options)
        self.pooling, self.head = classifier(in_features, num_classes, pooling, **options)

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Channels and stride of each entry of `features`."""
        return {f"stage{i + 1}": FeatureInfo(width, 2**i) for i, width in enumerate(self.widths)}

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b classes"]:
        """Logits [b, classes] of normalised images [b, h, w, c].

        With train=True batch statistics normalise, and the running ones are updated in place; with dropout or drop
        path that needs `rngs`, else ValueError.
        """
        last = self._stages(images, train=train, rngs=rngs)["stage3"]
        return self.head(pooled(self.pooling, last))

    def features(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """The maps "stage1", "stage2" and "stage3".

        The network is pre-activated: the first two are the sums that leave their stages, the last has been through the
        final batch norm and ReLU.
        """
        return self._stages(images, train=train, rngs=None)

    def _stages(self, images: Array, *, train: bool, rngs: nnx.Rngs | None) -> dict[str, Array]:
        require_images(images, self.in_channels)
        require_rngs(train, rngs, dropout=self.dropout_rate, drop_path=self.drop_path_rate)
        x = start = self.stem(images)
        maps = {}
        for i, width in enumerate(self.widths):
            before = x
            x = getattr(self, f"stage{i + 1}")(x, train=train, rngs=rngs)
            if self.long_skips:
                x = x + parameter_free_shortcut(before, 1 if i == 0 else 2, width)
            maps[f"stage{i + 1}"] = x
        if self.long_skips:
            for strides in (2, 2):
                start = parameter_free_shortcut(start, strides, start.shape[-1])
            x = x + parameter_free_shortcut(start, 1, self.widths[-1])
        maps["stage3"] = jax.nn.relu(self.bn(x, use_running_average=not train))
        return maps


# What each prefix plugs in: the argument of WideResNet, and the factory that makes it.
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "se_": {"recalibration": squeeze_excite},
    "ge_": {"recalibration": gather_excite},
    "aa_": {"conv": augmented_conv},
}
# With the convolutions of Zhu et al. (2021) besides, in both places of a block.
_WEIGHTED = {"conv": weighted_conv, "second_conv": weighted_conv}
_VARIANTS |= {f"aw_{prefix}": {**_WEIGHTED, **plugs} for prefix, plugs in _VARIANTS.items()}
_VARIANTS["aw_aa_"]["conv"] = augmented_weighted_conv


def _register(prefix: str, plugs: dict[str, Any]) -> None:
    """WRN-28-10 of Table 1: 36.3 M parameters and 80.3 % on CIFAR-100, with SE 36.5 M (without biases) and 81.0 %, with
    parameter-free GE 36.3 M and 79.8 %, augmented 36.2 M and 81.6 %. The paper's own rules give 36.05 M for the last,
    and the difference is unexplained.
    """

    @register(f"{prefix}wide_resnet28_10", network=WideResNet, plugs=plugs, num_classes=100, image_size=(32, 32))
    def build(**options: Any) -> WideResNet:
        return WideResNet(**plug(with_pooling(options), plugs, squeeze_excite_bias=False))


for _prefix, _plugs in _VARIANTS.items():
    _register(_prefix, _plugs)
