"""MnasNet-A1 (Tan et al., 2019), as in Table 4 of Bello et al. (2019)."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers import SqueezeExcite
from aa_flax.layers.convolve import convolve
from aa_flax.layers.drop_path import DropPathRule, drop_path, drop_path_rates
from aa_flax.layers.norm import batch_norm
from aa_flax.models.factories import ConvFactory, augmented_conv, plain_conv, plug, weighted_conv
from aa_flax.models.heads import PoolingFactory, average, classifier, pooled, with_pooling
from aa_flax.models.registry import register
from aa_flax.models.stages import FeatureInfo, Stage, require_images, require_rngs


class Group(NamedTuple):
    """Blocks of one kind, as the paper's Figure 7 lists them; `stage` counts resolutions, 2 to 32."""

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
    """Channels times width, to the nearest multiple of 8 that is not below 0.9 of the exact value."""
    exact = features * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class InvertedBottleneck(nnx.Module):
    """1×1 to `expansion` times the channels, depthwise k×k, (squeeze-excite), 1×1 back; a shortcut where sizes agree.

    Batch norm after each convolution, ReLU after the first two. With expansion 1 the first 1×1 is absent. The expansion
    comes from the factory `conv`, the depthwise convolution from `depthwise`, which gets `groups` too.
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

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "b hs ws f"]:
        y = x
        if self.expand is not None and self.expand_bn is not None:
            y = jax.nn.relu(self.expand_bn(convolve(self.expand, y, train=train), use_running_average=not train))
        y = jax.nn.relu(self.depthwise_bn(convolve(self.depthwise, y, train=train), use_running_average=not train))
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y, train=train)
        y = self.project_bn(self.project(y), use_running_average=not train)
        return x + drop_path(y, self.drop_path_rate, train=train, rngs=rngs) if self.adds else y


class MnasNet(nnx.Module):
    """Stem 3×3 of stride 2, sixteen inverted bottlenecks in seven groups, 1×1 to 1280, mean, classifier.

    The defaults of batch norm are those of the networks that PyTorch users have weights for; the recipe of the MnasNet
    paper's code has momentum 0.99 and epsilon 1e-3.

    Args:
        width: factor of all channels but the head's 1280, each rounded by `scaled`.
        conv: factory of each block's expansion, whose map is the block's input.
        depthwise: factory of each block's depthwise convolution: a `ConvFactory` that takes `groups` as well.
        pooling: factory of what stands between the last map and the classifier.
        dropout_rate: before the classifier; 0.2 in the recipe.
        drop_path_rate, drop_path_rule: stochastic depth, see `aa_flax.layers.drop_path_rates`; all blocks count, those
            with a shortcut drop.
        batch_norm_momentum, batch_norm_epsilon: of every batch norm.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        conv: ConvFactory = plain_conv,
        depthwise: Callable[..., nnx.Module] = plain_conv,
        pooling: PoolingFactory = average,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_rule: DropPathRule = "linear",
        batch_norm_momentum: float = 0.9,
        batch_norm_epsilon: float = 1e-5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not width > 0:
            raise ValueError(f"width must be above 0, got {width}")
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {dropout_rate}")
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        norm = functools.partial(batch_norm, momentum=batch_norm_momentum, epsilon=batch_norm_epsilon)
        self.in_channels = in_channels
        self.image_size = image_size
        self.dropout_rate = dropout_rate
        self.drop_path_rate = drop_path_rate
        rates = iter(drop_path_rates(drop_path_rate, sum(group.repeats for group in GROUPS), drop_path_rule))
        features = scaled(32, width)
        self.stem = plain_conv(in_channels, features, 3, strides=2, **options)
        self.stem_bn = norm(features, **options)
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
                    conv=conv,
                    depthwise=depthwise,
                    norm=norm,
                    drop_path_rate=next(rates),
                    **options,
                )
                blocks.setdefault(group.stage, []).append(block)
                features, stride = out, stride * strides
            info[f"stage{group.stage}"] = FeatureInfo(features, stride)
        self._info = tuple(info.items())
        for stage, built in blocks.items():
            setattr(self, f"stage{stage}", Stage(built))
        self.conv = plain_conv(features, 1280, 1, **options)
        self.bn = norm(1280, **options)
        self.dropout = nnx.Dropout(dropout_rate, deterministic=None) if dropout_rate else None
        self.pooling, self.head = classifier(1280, num_classes, pooling, **options)

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Channels and stride of each entry of `features`."""
        return dict(self._info)

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b classes"]:
        """Logits [b, classes] of normalised images [b, h, w, c].

        With train=True batch statistics are updated in place; with dropout or drop path that needs `rngs`, else
        ValueError.
        """
        require_rngs(train, rngs, dropout=self.dropout_rate)
        x = self._stages(images, train=train, rngs=rngs)["stage5"]
        x = pooled(self.pooling, jax.nn.relu(self.bn(self.conv(x), use_running_average=not train)))
        if self.dropout is not None:
            x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)

    def features(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """The maps "stage1" to "stage5", the last of each resolution 2 to 32; their blocks end without activation."""
        return self._stages(images, train=train, rngs=None)

    def _stages(self, images: Array, *, train: bool, rngs: nnx.Rngs | None) -> dict[str, Array]:
        require_rngs(train, rngs, drop_path=self.drop_path_rate)
        require_images(images, self.in_channels)
        x = jax.nn.relu(self.stem_bn(self.stem(images), use_running_average=not train))
        maps = {}
        for name, _ in self._info:
            x = maps[name] = getattr(self, name)(x, train=train, rngs=rngs)
        return maps


# Section 4.3: the expansions of the last 13 blocks, from 28×28 on, downsampled in the first of these stages. The
# printed parameters need the value depth rounded to the nearest multiple of heads and no minimum of the key depth.
_AUGMENTATION: dict[str, Any] = dict(
    num_heads=4,
    kappa=0.1,
    upsilon=0.05,
    min_key_depth_per_head=0,
    value_rounding="nearest",
    attention_stages=(3, 4, 5),
    attention_downsample=(1, 1, 2, 1, 1),
)


# What each prefix plugs in: the argument of MnasNet, and the factory that makes it.
_VARIANTS: dict[str, dict[str, Any]] = {"": {}, "aa_": {"conv": augmented_conv}}
# With the convolutions of Zhu et al. (2021) besides.
_VARIANTS |= {f"aw_{prefix}": {"depthwise": weighted_conv, **plugs} for prefix, plugs in _VARIANTS.items()}


def _register(name: str, width: float, plugs: dict[str, Any]) -> None:
    @register(name, network=MnasNet, plugs=plugs, num_classes=1000, image_size=(224, 224))
    def build(**options: Any) -> MnasNet:
        return MnasNet(**plug(with_pooling({"width": width, **options}), plugs, **_AUGMENTATION))


for _name, _width in (("mnasnet_075", 0.75), ("mnasnet_100", 1.0), ("mnasnet_125", 1.25), ("mnasnet_140", 1.4)):
    for _prefix, _plugs in _VARIANTS.items():
        _register(f"{_prefix}{_name}", _width, _plugs)
