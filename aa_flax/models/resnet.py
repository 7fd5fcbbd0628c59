"""Residual networks (He et al., 2016), version 1.5, as in Tables 2, 3 and 6 of Bello et al. (2019).

Version 1.5 has the stride of a bottleneck in its 3×3 convolution; the GFLOPs that Bello et al. print require it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.convolve import convolve
from aa_flax.layers.drop_path import DropPathRule, drop_path, drop_path_rates
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.models.activated import convolve_activated
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
from aa_flax.models.recalibration import (
    BAMFactory,
    CBAMFactory,
    GALAFactory,
    GatherExciteFactory,
    SqueezeExciteFactory,
    no_recalibration,
)
from aa_flax.models.registry import register
from aa_flax.models.stages import FeatureInfo, require_images, require_rngs, require_sizes, residual_stage
from aa_flax.ops import max_pool
from aa_flax.ops.max_pooling import Padding

BlockKind = Literal["basic", "bottleneck"]


class ResidualBlock(WithMode):
    """A basic block (3×3, 3×3) or a bottleneck (1×1, 3×3, 1×1 to four times the width).

    Batch norm follows every convolution, and ReLU every batch norm but the last. `recalibration` scales the branch
    after its last batch norm, and ReLU follows the sum with the shortcut. The factory `conv` builds the 3×3 of a
    bottleneck, or the first 3×3 of a basic block, which has the stride; `second_conv` builds the second 3×3 of a basic
    block. With `zero_init` the scale of the last batch norm starts at 0, so that the block starts as its shortcut.
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
        zero_init: bool,
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
        if zero_init:
            last: Any = self.bn2 if self.conv3 is None else self.bn3
            last.scale[...] = jnp.zeros_like(last.scale[...])
        self.drop_path_rate = drop_path_rate
        self.recalibration: Any = recalibration(features, map_shape=map_shape, **options)
        changes = strides > 1 or in_features != features
        self.shortcut = plain_conv(in_features, features, 1, strides=strides, **options) if changes else None
        self.shortcut_bn = norm(features, **options) if changes else None

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b hs ws f"]:
        """Return the map after the block; in training drop path draws from `rngs`."""
        running = evaluates(train)
        y = convolve(self.conv1, x, train=train)
        y = convolve_activated(self.bn1, self.conv2, y, train=train, recompute=False)
        y = self.bn2(y, use_running_average=running)
        if self.conv3 is not None:
            y = self.bn3(self.conv3(jax.nn.relu(y)), use_running_average=running)
        if self.recalibration is not None:
            y = self.recalibration(y, train=train)
        y = drop_path(y, self.drop_path_rate, train=self.trains(train), rngs=rngs)
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x), use_running_average=running)
        return jax.nn.relu(x + y)


@dataclass(frozen=True, kw_only=True)
class ResNetOptions(HeadOptions):
    """Options of a `ResNet`."""

    kind: BlockKind
    blocks: tuple[int, ...]  # number of blocks in each of the four stages
    width: int = 64  # channels of the stem; the convolutions of the four stages have 1, 2, 4 and 8 times as many
    pool_padding: Padding = "symmetric"  # of the max pooling after the stem; "same" is TensorFlow's, after the map only
    zero_init_residual: bool = False  # the last batch norm of each block starts with scale 0
    conv: ConvFactory = plain_conv  # of each bottleneck's 3×3, or of each basic block's first
    second_conv: ConvFactory = plain_conv  # of a basic block's second
    recalibration: RecalibrationFactory = no_recalibration  # follows each residual branch (SE, GE, CBAM, GALA)
    between_stages: RecalibrationFactory = no_recalibration  # follows each stage but the last (BAM)
    norm: NormFactory = batch_norm
    drop_path_rate: float = 0.0  # stochastic depth of all blocks, see aa_flax.layers.drop_path_rates
    drop_path_rule: DropPathRule = "linear"


class ResNet(WithMode):
    """ResNet: a 7×7 stem of stride 2, max pooling, four stages at strides 4, 8, 16 and 32, pooling, classifier.

    Raises:
        ValueError: options that no such network can have; at call time images that do not fit.
    """

    def __init__(
        self,
        options: ResNetOptions,
        *,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        kind, blocks = options.kind, options.blocks
        if kind not in get_args(BlockKind):
            raise ValueError(f"kind must be one of {get_args(BlockKind)}, got {kind!r}")
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four numbers of at least 1, one a stage, got {tuple(blocks)}")
        if options.width < 1:
            raise ValueError(f"width must be at least 1, got {options.width}")
        require_sizes(num_classes, in_channels)
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        expansion = 4 if kind == "bottleneck" else 1
        self.widths = tuple(options.width * expansion * 2**i for i in range(4))
        self.in_channels = in_channels
        self.image_size = image_size
        self.stem = plain_conv(in_channels, options.width, 7, strides=2, **arrays)
        self.bn = options.norm(options.width, **arrays)
        self.pool_padding = options.pool_padding
        self.drop_path_rate = options.drop_path_rate
        rates = drop_path_rates(options.drop_path_rate, sum(blocks), options.drop_path_rule)
        in_features = options.width
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
                conv=options.conv,
                second_conv=options.second_conv,
                norm=options.norm,
                recalibration=options.recalibration,
                zero_init=options.zero_init_residual,
                **arrays,
            )
            setattr(self, f"stage{i + 1}", stage)
            if i < 3:
                setattr(self, f"attention{i + 1}", options.between_stages(width, map_shape=map_shape, **arrays))
            in_features = width
        self.pooling, self.head = classifier(in_features, num_classes, options, **arrays)
        self.eval()  # the first mode of all modules inside, whatever mode the factories left them in

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return {f"stage{i + 1}": FeatureInfo(width, 4 * 2**i) for i, width in enumerate(self.widths)}

    @property
    def depth_groups(self) -> dict[str, int]:
        """Return the group of each module, see `aa_flax.models.depth`; BAM belongs to the block before it."""
        stages = {f"stage{i}": getattr(self, f"stage{i}").blocks for i in (1, 2, 3, 4)}
        blocks = blocks_of_stages(stages)
        between = {f"attention{i}": blocks[f"stage{i}.block{stages[f'stage{i}']}"] for i in (1, 2, 3)}
        return {"stem": 0, "bn": 0, **blocks, **between}

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b _"]:
        """Return logits [b, classes] of normalised images [b, h, w, c]; pooled features [b, width] with num_classes=0.

        In training, batch statistics are updated in place, and drop path needs `rngs`.

        Raises:
            ValueError: images that do not fit, or drop path in training without `rngs`.
        """
        return outputs(self.pooling, self.head, self._stages(images, train=train, rngs=rngs)["stage4"])

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the maps "stage1" to "stage4", after each stage's last ReLU and after BAM if the network has it.

        In training they are those of the call in training, with drop path.
        """
        return self._stages(images, train=train, rngs=rngs)

    def _stages(self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None) -> dict[str, Array]:
        require_images(images, self.in_channels)
        require_rngs(self.trains(train), rngs, drop_path=self.drop_path_rate)
        x = jax.nn.relu(self.bn(self.stem(images), use_running_average=evaluates(train)))
        x = max_pool(x, 2, padding=self.pool_padding)
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
# For each prefix of a name, the options of ResNet that factories fill, and the factories.
_VARIANTS: dict[str, dict[str, type]] = {
    "": {},
    "se_": {"recalibration": SqueezeExciteFactory},
    "ge_": {"recalibration": GatherExciteFactory},
    "bam_": {"between_stages": BAMFactory},
    "cbam_": {"recalibration": CBAMFactory},
    "gala_": {"recalibration": GALAFactory},
    "aa_": {"conv": AugmentedConvFactory},
}
# The same with the convolutions of Zhu et al. (2021); in a basic block they are both 3×3.
_WEIGHTED: dict[str, type] = {"conv": WeightedConvFactory, "second_conv": WeightedConvFactory}
_VARIANTS |= {f"aw_{prefix}": {**_WEIGHTED, **plugs} for prefix, plugs in _VARIANTS.items()}
_VARIANTS["aw_aa_"]["conv"] = AugmentedWeightedConvFactory


def _augmentation(depth: int) -> dict[str, Any]:
    """Return the attention options of section 4.2 of Bello et al. (2019).

    The last three stages attend, downsampled at 28×28. The paper's ResNet-34 has kappa = upsilon = 0.25, which
    ResNet-18 has here too.
    """
    ratios = dict(kappa=0.25, upsilon=0.25) if depth <= 34 else {}
    return dict(attention_stages=(2, 3, 4), attention_downsample=(1, 2, 1, 1), **ratios)


def _register(name: str, depth: int, plugs: dict[str, type], **defaults: Any) -> None:
    kind, blocks = _SIZES[depth]
    defaults = {"kind": kind, "blocks": blocks, **defaults}
    sizes: dict[str, Any] = dict(num_classes=1000, image_size=(224, 224), strides=(4, 8, 16, 32))
    register(name, ResNet, ResNetOptions, plugs=plugs, defaults=defaults, **sizes)


for _depth in _SIZES:
    for _prefix, _plugs in _VARIANTS.items():
        _register(f"{_prefix}resnet{_depth}", _depth, _plugs, **(_augmentation(_depth) if "aa_" in _prefix else {}))
_register("fully_attentional_resnet50", 50, _VARIANTS["aa_"], **{**_augmentation(50), "kappa": 1.0, "upsilon": 1.0})
