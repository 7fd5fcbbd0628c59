"""Residual networks (He et al., 2016), version 1.5, as in Tables 2, 3 and 6 of Bello et al. (2019).

Version 1.5 has the stride of a bottleneck in its 3×3 convolution: the GFLOPs that the paper prints need it.
"""

import math
from collections.abc import Sequence
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
    bam,
    cbam,
    gala,
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
from aa_flax.ops import max_pool

BlockKind = Literal["basic", "bottleneck"]


class ResidualBlock(nnx.Module):
    """A basic block (3×3, 3×3) or a bottleneck (1×1, 3×3, 1×1 to four times the width).

    Batch norm after every convolution, ReLU between; `recalibration` scales the branch after its last batch norm; the
    sum with the shortcut goes through ReLU. The convolution from the factory `conv` is the bottleneck's 3×3, or the
    basic block's first: in both it carries the stride. A basic block's second comes from `second_conv`.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        kind: BlockKind,
        strides: int,
        map_shape: tuple[int, int],
        stage: int,
        conv: ConvFactory,
        second_conv: ConvFactory,
        norm: NormFactory,
        recalibration: RecalibrationFactory,
        drop_path_rate: float,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        place: dict[str, Any] = dict(map_shape=map_shape, stage=stage, **options)
        width = features // 4 if kind == "bottleneck" else features
        if kind == "bottleneck":
            self.conv1: Any = plain_conv(in_features, width, 1, **options)
            self.conv2: Any = conv(width, width, 3, strides=strides, **place)
            self.conv3: Any = plain_conv(width, features, 1, **options)
            self.bn3 = norm(features, **options)
        else:
            self.conv1 = conv(in_features, width, 3, strides=strides, **place)
            self.conv2 = second_conv(width, width, 3, strides=1, **place)
            self.conv3 = None
        self.bn1 = norm(width, **options)
        self.bn2 = norm(width, **options)
        self.drop_path_rate = drop_path_rate
        self.recalibration: Any = recalibration(features, map_shape=map_shape, **options)
        changes = strides > 1 or in_features != features
        self.shortcut = plain_conv(in_features, features, 1, strides=strides, **options) if changes else None
        self.shortcut_bn = norm(features, **options) if changes else None

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "b hs ws f"]:
        running = not train
        y = convolve(self.conv1, x, train=train)
        y = convolve_activated(self.bn1, self.conv2, y, train=train, recompute=False)
        y = self.bn2(y, use_running_average=running)
        if self.conv3 is not None:
            y = self.bn3(self.conv3(jax.nn.relu(y)), use_running_average=running)
        if self.recalibration is not None:
            y = self.recalibration(y, train=train)
        y = drop_path(y, self.drop_path_rate, train=train, rngs=rngs)
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x), use_running_average=running)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """Stem 7×7 of stride 2 and max pooling, four stages at strides 4, 8, 16 and 32, mean or attention, classifier.

    Args:
        kind: "basic" or "bottleneck" blocks.
        blocks: how many in each stage.
        conv: factory of the 3×3 convolution of each block, of a basic block's first.
        second_conv: factory of a basic block's second one.
        recalibration: factory of what follows each residual branch (SE, GE, CBAM, GALA).
        between_stages: factory of what follows each stage but the last (BAM).
        norm: factory of the normalisations.
        pooling: factory of what stands between the last map and the classifier.
        drop_path_rate, drop_path_rule: stochastic depth, see `aa_flax.layers.drop_path_rates`; of all blocks.
    """

    def __init__(
        self,
        *,
        kind: BlockKind,
        blocks: Sequence[int],
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        conv: ConvFactory = plain_conv,
        second_conv: ConvFactory = plain_conv,
        recalibration: RecalibrationFactory = no_recalibration,
        between_stages: RecalibrationFactory = no_recalibration,
        norm: NormFactory = batch_norm,
        pooling: PoolingFactory = average,
        drop_path_rate: float = 0.0,
        drop_path_rule: DropPathRule = "linear",
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if kind not in get_args(BlockKind):
            raise ValueError(f"kind must be one of {get_args(BlockKind)}, got {kind!r}")
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four numbers of at least 1, one a stage, got {tuple(blocks)}")
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}")
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        expansion = 4 if kind == "bottleneck" else 1
        self.widths = tuple(64 * expansion * 2**i for i in range(4))
        self.in_channels = in_channels
        self.image_size = image_size
        self.stem = plain_conv(in_channels, 64, 7, strides=2, **options)
        self.bn = norm(64, **options)
        self.drop_path_rate = drop_path_rate
        rates = drop_path_rates(drop_path_rate, sum(blocks), drop_path_rule)
        in_features = 64
        for i, (width, count) in enumerate(zip(self.widths, blocks, strict=True)):
            map_shape = (math.ceil(image_size[0] / 2 ** (i + 2)), math.ceil(image_size[1] / 2 ** (i + 2)))
            stage = residual_stage(
                ResidualBlock,
                rates[sum(blocks[:i]) : sum(blocks[:i]) + count],
                in_features,
                width,
                kind=kind,
                strides=1 if i == 0 else 2,
                map_shape=map_shape,
                stage=i + 1,
                conv=conv,
                second_conv=second_conv,
                norm=norm,
                recalibration=recalibration,
                **options,
            )
            setattr(self, f"stage{i + 1}", stage)
            if i < 3:
                setattr(self, f"attention{i + 1}", between_stages(width, map_shape=map_shape, **options))
            in_features = width
        self.pooling, self.head = classifier(in_features, num_classes, pooling, **options)

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Channels and stride of each entry of `features`."""
        return {f"stage{i + 1}": FeatureInfo(width, 4 * 2**i) for i, width in enumerate(self.widths)}

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b classes"]:
        """Logits [b, classes] of normalised images [b, h, w, c].

        With train=True batch statistics are updated in place; with drop path that needs `rngs`, else ValueError.
        """
        return self.head(pooled(self.pooling, self._stages(images, train=train, rngs=rngs)["stage4"]))

    def features(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """The maps "stage1" to "stage4" after each stage's last ReLU, and after BAM where there is one."""
        return self._stages(images, train=train, rngs=None)

    def _stages(self, images: Array, *, train: bool, rngs: nnx.Rngs | None) -> dict[str, Array]:
        require_images(images, self.in_channels)
        require_rngs(train, rngs, drop_path=self.drop_path_rate)
        x = jax.nn.relu(self.bn(self.stem(images), use_running_average=not train))
        x = max_pool(x, 2)
        maps = {}
        for i in range(4):
            x = getattr(self, f"stage{i + 1}")(x, train=train, rngs=rngs)
            attention = getattr(self, f"attention{i + 1}", None)
            if attention is not None:
                x = attention(x, train=train)
            maps[f"stage{i + 1}"] = x
        return maps


_SIZES: dict[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
# What each prefix plugs in: the argument of ResNet, and the factory that makes it.
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "se_": {"recalibration": squeeze_excite},
    "ge_": {"recalibration": gather_excite},
    "bam_": {"between_stages": bam},
    "cbam_": {"recalibration": cbam},
    "gala_": {"recalibration": gala},
    "aa_": {"conv": augmented_conv},
}
# With the convolutions of Zhu et al. (2021) besides: both 3×3 of a basic block.
_WEIGHTED = {"conv": weighted_conv, "second_conv": weighted_conv}
_VARIANTS |= {f"aw_{prefix}": {**_WEIGHTED, **plugs} for prefix, plugs in _VARIANTS.items()}
_VARIANTS["aw_aa_"]["conv"] = augmented_weighted_conv


def _augmentation(depth: int) -> dict[str, Any]:
    """Section 4.2: the last three stages, downsampled at 28×28; ResNet-34 has kappa = upsilon = 0.25."""
    ratios = dict(kappa=0.25, upsilon=0.25) if depth <= 34 else {}
    return dict(attention_stages=(2, 3, 4), attention_downsample=(1, 2, 1, 1), **ratios)


def _register(name: str, depth: int, plugs: dict[str, Any], **defaults: Any) -> None:
    kind, blocks = _SIZES[depth]

    @register(name, network=ResNet, plugs=plugs, num_classes=1000, image_size=(224, 224))
    def build(**options: Any) -> ResNet:
        options = with_pooling({"kind": kind, "blocks": blocks, **options})
        return ResNet(**plug(options, plugs, **defaults))


for _depth in _SIZES:
    for _prefix, _plugs in _VARIANTS.items():
        _register(f"{_prefix}resnet{_depth}", _depth, _plugs, **(_augmentation(_depth) if "aa_" in _prefix else {}))
_register("fully_attentional_resnet50", 50, _VARIANTS["aa_"], **{**_augmentation(50), "kappa": 1.0, "upsilon": 1.0})
