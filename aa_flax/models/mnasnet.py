"""MnasNet-A1 (Tan et al., 2019), plain and augmented as in Table 4 of Bello et al. (2019)."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers import SqueezeExcite
from aa_flax.layers.convolve import convolve
from aa_flax.layers.drop_path import DropPathRule, drop_path, drop_path_rates
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import batch_norm
from aa_flax.models.depth import blocks_of_stages
from aa_flax.models.factories import AugmentedConvFactory, ConvFactory, WeightedConvFactory, plain_conv
from aa_flax.models.heads import HeadOptions, classifier, pooled
from aa_flax.models.registry import register
from aa_flax.models.stages import FeatureInfo, Stage, require_images, require_rngs, require_sizes


class Group(NamedTuple):
    """Consecutive blocks of one kind, as the MnasNet paper's Figure 7 lists them.

    `stage` numbers the resolutions: stages 1 to 5 have strides 2 to 32.
    """

    stage: int
    kernel_size: int
    expansion: int
    features: int
    repeats: int
    strides: int
    squeeze_excite: bool


GROUPS = (
    Group(1, 3, 1, 16, 1, 1, False),
    Group(2, 3, 6, 24, 2, 2, False),
    Group(3, 5, 3, 40, 3, 2, True),
    Group(4, 3, 6, 80, 4, 2, False),
    Group(4, 3, 6, 112, 2, 1, True),
    Group(5, 5, 6, 160, 3, 2, True),
    Group(5, 3, 6, 320, 1, 1, False),
)


def scaled(features: int, width: float) -> int:
    """Return features * width, rounded to the nearest multiple of 8 that is not below 0.9 of the exact value."""
    exact = features * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class InvertedBottleneck(WithMode):
    """Block: 1×1 to `expansion` times the channels, depthwise k×k, (squeeze-and-excitation), 1×1 to `features`.

    It has a shortcut if input and output have the same shape. Batch norm follows each convolution, ReLU the first two.
    With expansion 1 the first 1×1 is absent. The factory `conv` builds the first 1×1, the factory `depthwise`, which is
    given `groups` too, the depthwise convolution.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        group: Group,
        strides: int,
        map_shape: tuple[int, int],
        stage: int,
        conv: ConvFactory,
        depthwise: Callable[..., nnx.Module],
        norm: Any,
        drop_path_rate: float,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        width = in_features * group.expansion
        expands = group.expansion > 1
        place: dict[str, Any] = dict(map_shape=map_shape, stage=stage, **options)
        self.expand: Any = conv(in_features, width, 1, strides=1, **place) if expands else None
        self.expand_bn = norm(width, **options) if expands else None
        self.depthwise = depthwise(width, width, group.kernel_size, strides=strides, groups=width, **place)
        self.depthwise_bn = norm(width, **options)
        hidden = max(1, in_features // 4)
        self.squeeze_excite = SqueezeExcite(width, hidden_features=hidden, **options) if group.squeeze_excite else None
        self.project = plain_conv(width, features, 1, **options)
        self.project_bn = norm(features, **options)
        self.adds = strides == 1 and in_features == features
        self.drop_path_rate = drop_path_rate

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b hs ws f"]:
        """Return the map after the block; in training drop path draws from `rngs`."""
        y = x
        if self.expand is not None and self.expand_bn is not None:
            y = jax.nn.relu(self.expand_bn(convolve(self.expand, y, train=train), use_running_average=evaluates(train)))
        y = jax.nn.relu(
            self.depthwise_bn(convolve(self.depthwise, y, train=train), use_running_average=evaluates(train))
        )
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y, train=train)
        y = self.project_bn(self.project(y), use_running_average=evaluates(train))
        if not self.adds:
            return y
        return x + drop_path(y, self.drop_path_rate, train=self.trains(train), rngs=rngs)


@dataclass(frozen=True, kw_only=True)
class MnasNetOptions(HeadOptions):
    """Options of a `MnasNet`."""

    width: float = 1.0  # factor of all channels but the head's 1280; `scaled` rounds the products
    conv: ConvFactory = plain_conv  # of each block's expansion; its map has the size of the block's input
    depthwise: Callable[..., nnx.Module] = plain_conv  # a ConvFactory that takes `groups` as well
    dropout_rate: float = 0.0  # before the classifier, unused without one; 0.2 in the recipe
    drop_path_rate: float = 0.0  # see aa_flax.layers.drop_path_rates; only blocks with a shortcut drop, all count
    drop_path_rule: DropPathRule = "linear"
    batch_norm_momentum: float = 0.9  # of every batch norm
    batch_norm_epsilon: float = 1e-5


class MnasNet(WithMode):
    """MnasNet-A1: a 3×3 stem of stride 2, sixteen inverted bottlenecks in seven groups, 1×1 to 1280, mean, classifier.

    By default batch norm has the momentum and epsilon of the networks for which PyTorch users have weights; the recipe
    of the MnasNet paper's code has momentum 0.99 and epsilon 1e-3.

    Raises:
        ValueError: options that no such network can have; at call time images that do not fit.
    """

    def __init__(
        self,
        options: MnasNetOptions = MnasNetOptions(),
        *,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        width = options.width
        if not width > 0:
            raise ValueError(f"width must be above 0, got {width}")
        require_sizes(num_classes, in_channels)
        if not 0 <= options.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {options.dropout_rate}")
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        norm = functools.partial(batch_norm, momentum=options.batch_norm_momentum, epsilon=options.batch_norm_epsilon)
        self.in_channels = in_channels
        self.image_size = image_size
        self.dropout_rate = options.dropout_rate if num_classes else 0.0
        self.drop_path_rate = options.drop_path_rate
        rates = iter(drop_path_rates(options.drop_path_rate, sum(g.repeats for g in GROUPS), options.drop_path_rule))
        features = scaled(32, width)
        self.stem = plain_conv(in_channels, features, 3, strides=2, **arrays)
        self.stem_bn = norm(features, **arrays)
        stride = 2
        blocks: dict[int, list[nnx.Module]] = {}
        info: dict[str, FeatureInfo] = {}
        for group in GROUPS:
            for repeat in range(group.repeats):
                strides = group.strides if repeat == 0 else 1
                out = scaled(group.features, width)
                block = InvertedBottleneck(
                    features,
                    out,
                    group=group,
                    strides=strides,
                    map_shape=(math.ceil(image_size[0] / stride), math.ceil(image_size[1] / stride)),
                    stage=group.stage,
                    conv=options.conv,
                    depthwise=options.depthwise,
                    norm=norm,
                    drop_path_rate=next(rates),
                    **arrays,
                )
                blocks.setdefault(group.stage, []).append(block)
                features, stride = out, stride * strides
            info[f"stage{group.stage}"] = FeatureInfo(features, stride)
        self._info = tuple(info.items())
        for stage, built in blocks.items():
            setattr(self, f"stage{stage}", Stage(built))
        self.conv: Any = plain_conv(features, 1280, 1, **arrays)
        self.bn: Any = norm(1280, **arrays)
        self.dropout = nnx.Dropout(self.dropout_rate, deterministic=True) if self.dropout_rate else None
        self.pooling, self.head = classifier(1280, num_classes, options, **arrays)
        self.eval()  # the first mode of all modules inside, whatever mode the factories left them in

    def remove_head(self) -> None:
        """Remove what follows the last map of `features`, for a network that takes those maps."""
        self.conv = self.bn = self.dropout = self.pooling = self.head = None

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return dict(self._info)

    @property
    def depth_groups(self) -> dict[str, int]:
        """Return the group of each module, see `aa_flax.models.depth`."""
        return {
            "stem": 0,
            "stem_bn": 0,
            **blocks_of_stages({name: getattr(self, name).blocks for name, _ in self._info}),
        }

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b _"]:
        """Return logits [b, classes] of normalised images [b, h, w, c]; pooled features [b, width] with num_classes=0.

        In training, batch statistics are updated in place, and dropout and drop path need `rngs`.

        Raises:
            ValueError: images that do not fit, or dropout or drop path in training without `rngs`.
        """
        require_rngs(self.trains(train), rngs, dropout=self.dropout_rate)
        x = self._stages(images, train=train, rngs=rngs)["stage5"]
        if self.conv is not None and self.bn is not None:
            x = jax.nn.relu(self.bn(self.conv(x), use_running_average=evaluates(train)))
        x = pooled(self.pooling, x)
        if self.dropout is not None and train is not False:
            x = self.dropout(x, deterministic=evaluates(train), rngs=rngs)
        return x if self.head is None else self.head(x)

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the maps "stage1" to "stage5", the last at each of the strides 2 to 32; blocks end without activation.

        In training they are those of the call in training, with drop path.
        """
        return self._stages(images, train=train, rngs=rngs)

    def _stages(self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None) -> dict[str, Array]:
        require_rngs(self.trains(train), rngs, drop_path=self.drop_path_rate)
        require_images(images, self.in_channels)
        x = jax.nn.relu(self.stem_bn(self.stem(images), use_running_average=evaluates(train)))
        maps = {}
        for name, _ in self._info:
            x = maps[name] = getattr(self, name)(x, train=train, rngs=rngs)
        return maps


# Section 4.3 of Bello et al. (2019): the expansions of the last 13 blocks, from 28×28 on, are augmented, with
# downsampled attention in the first of these stages. The printed parameter counts require the value depth rounded to
# the nearest multiple of the heads and no minimum of the key depth.
_AUGMENTATION: dict[str, Any] = dict(
    num_heads=4,
    kappa=0.1,
    upsilon=0.05,
    min_key_depth_per_head=0,
    value_rounding="nearest",
    attention_stages=(3, 4, 5),
    attention_downsample=(1, 1, 2, 1, 1),
)

# For each prefix of a name, the options of MnasNet that factories fill, and the factories.
_VARIANTS: dict[str, dict[str, type]] = {"": {}, "aa_": {"conv": AugmentedConvFactory}}
# The same with the convolutions of Zhu et al. (2021) as depthwise convolutions.
_VARIANTS |= {f"aw_{prefix}": {"depthwise": WeightedConvFactory, **plugs} for prefix, plugs in _VARIANTS.items()}

for _name, _width in (("mnasnet_075", 0.75), ("mnasnet_100", 1.0), ("mnasnet_125", 1.25), ("mnasnet_140", 1.4)):
    for _prefix, _plugs in _VARIANTS.items():
        register(
            f"{_prefix}{_name}",
            MnasNet,
            MnasNetOptions,
            plugs=_plugs,
            defaults={"width": _width, **(_AUGMENTATION if "aa_" in _prefix else {})},
            num_classes=1000,
            image_size=(224, 224),
            strides=(2, 4, 8, 16, 32),
        )
