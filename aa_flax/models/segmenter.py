"""What all segmentation networks around a backbone have in common."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from aa_flax.layers.mode import WithMode
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.layers.pixel_classifier import FCNHead, PixelClassifier
from aa_flax.models.backbones import norms_of_its_own, take_maps
from aa_flax.models.heads import HeadOptions, classifier, outputs
from aa_flax.models.stages import FeatureInfo, require_images, require_rngs
from aa_flax.ops import resize_bilinear
from aa_flax.precision import at_least_float32

LEVELS = (2, 5)
"""The finest and the coarsest level of the backbone's maps; level l has a stride of 2**l pixels."""


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Options of every `Segmenter` around its backbone; the defaults are those of mmsegmentation."""

    dropout_rate: float = 0.1  # of whole channels, before the classifier and before that of the auxiliary head
    auxiliary_head: bool = True  # a second classifier of the map of stride 16, for training only
    auxiliary_width: int = 256  # channels of its 3×3 convolution
    auxiliary_weight: float = 0.4  # of its loss; that of the main one is 1
    presence_head: bool = False  # says in training which classes occur: a token for each attends to that map
    presence_width: int | None = None  # channels of the tokens; None is that of the map
    presence_weight: float = 0.2  # of its loss; that of the semantic encoding loss of EncNet (Zhang et al., 2018)
    batch_norm_momentum: float = 0.9  # of backbone and heads; gates of attention modules keep their own
    batch_norm_epsilon: float = 1e-5
    frozen_norms: bool = False  # batch norms of the backbone use their running statistics and do not learn

    def __post_init__(self) -> None:
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), got {self.dropout_rate}")
        if not 0 <= self.batch_norm_momentum <= 1:
            raise ValueError(f"batch_norm_momentum must lie in [0, 1], got {self.batch_norm_momentum}")
        if not self.batch_norm_epsilon > 0:
            raise ValueError(f"batch_norm_epsilon must be above 0, got {self.batch_norm_epsilon}")
        if self.auxiliary_width < 1:
            raise ValueError(f"auxiliary_width must be at least 1, got {self.auxiliary_width}")
        if not self.auxiliary_weight >= 0:
            raise ValueError(f"auxiliary_weight must be at least 0, got {self.auxiliary_weight}")
        if not self.presence_weight > 0:
            raise ValueError(f"presence_weight must be above 0, got {self.presence_weight}")
        if self.presence_width is not None and not self.presence_head:
            raise ValueError(f"presence_width={self.presence_width} goes with presence_head=True")


class Segmenter(WithMode):
    """A network that gives the logits of every class at every fourth pixel of an image.

    It has a backbone, a decode head that makes one map of the backbone's four at strides 4, 8, 16 and 32, and a
    classifier of each location of it. In training an auxiliary head classifies the map of stride 16 as well. A subclass
    says what the decode head is.

    With `presence_head`, attention pooling (Touvron et al., 2021) of the map of stride 16 learns beside them: a token
    for each class attends to the map, and a logit of each token says whether the class occurs in the image. The
    weights of the tokens show where the network looks for it; `aa_flax.analysis.attention_maps` has them at "pooling".

    Sub-modules: `backbone`, `decode_head`, `classifier`, `auxiliary_head`, `pooling`, `presence_head` (None without).

    Args:
        options: of what stands around the backbone.
        backbone: a network with `features` and `feature_info`, and with maps at strides 4, 8, 16 and 32. Its batch
            norms get the momentum and epsilon of the options.
        num_classes: logits at each location.

    Raises:
        ValueError: options that no such network can have, or maps that the backbone does not give; at call time images
            that do not fit, or dropout or drop path in training without `rngs`.
    """

    def __init__(
        self,
        options: Any,
        backbone: Any,
        *,
        num_classes: int = 150,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes of a segmentation network must be at least 1, got {num_classes}")
        self.options, self.num_classes = options, num_classes
        self.image_size, self.in_channels = backbone.image_size, backbone.in_channels
        self.backbone = backbone
        self._stages = take_maps(backbone, *LEVELS)
        channels = {level: backbone.feature_info[stage].channels for level, stage in self._stages}
        momentum, epsilon = options.batch_norm_momentum, options.batch_norm_epsilon
        for _, own in norms_of_its_own(backbone):
            own.momentum, own.epsilon, own.frozen = momentum, epsilon, options.frozen_norms
        norm = functools.partial(batch_norm, momentum=momentum, epsilon=epsilon)
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.decode_head = self._make_head(options, channels, norm=norm, **arrays)
        dropout: dict[str, Any] = dict(dropout_rate=options.dropout_rate)
        self.classifier = PixelClassifier(self.decode_head.width, num_classes, **dropout, **arrays)
        auxiliary: dict[str, Any] = dict(width=options.auxiliary_width, norm=norm, **dropout, **arrays)
        self.auxiliary_head = FCNHead(channels[4], num_classes, **auxiliary) if options.auxiliary_head else None
        pooling, presence_head = None, None
        if options.presence_head:
            tokens = HeadOptions(pooling="attention", pooling_tokens="class", pooling_width=options.presence_width)
            pooling, presence_head = classifier(channels[4], num_classes, tokens, **arrays)
        self.pooling, self.presence_head = pooling, presence_head
        self.eval()  # the first mode of all modules inside

    def _make_head(self, options: Any, channels: dict[int, int], *, norm: NormFactory, **arrays: Any) -> Any:
        """Return the decode head: a module with `width`, `pyramid_width`, `pyramid` and a call that takes its maps."""
        raise NotImplementedError

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return {f"p{level}": FeatureInfo(self.decode_head.pyramid_width, 2**level) for level, _ in self._stages}

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Return the dotted paths of the modules whose parameters are to stay as they are in training.

        These are the backbone's own batch norms with `frozen_norms`. In training they are to get no gradient and no
        weight decay.
        """
        return tuple(f"backbone.{path}" for path, norm in norms_of_its_own(self.backbone) if norm.frozen)

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b hs ws classes"] | dict[str, Array]:
        """Return the logits [b, ceil(h/4), ceil(w/4), classes] of normalised images [b, h, w, c], in at least float32.

        In training it is what `outputs` returns. Batch statistics are updated in place then, and dropout needs `rngs`.

        Raises:
            ValueError: images that do not fit, or dropout or drop path in training without `rngs`.
        """
        if self.trains(train):
            return self.outputs(images, train=train, rngs=rngs)
        return self._logits(self._maps(images, train=train, rngs=rngs), train=train, rngs=rngs)

    def outputs(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return what each head gives, in training or not, in at least float32:

            "logits" [b, ceil(h/4), ceil(w/4), classes]
            "auxiliary" [b, ceil(h/16), ceil(w/16), classes]    with the auxiliary head
            "presence" [b, classes], the logit of each class to occur in the image    with the presence head

        Raises:
            ValueError: as for a call.
        """
        require_rngs(self.trains(train), rngs, dropout=self.options.dropout_rate)
        maps = self._maps(images, train=train, rngs=rngs)
        found = {"logits": self._logits(maps, train=train, rngs=rngs)}
        if self.auxiliary_head is not None:
            found["auxiliary"] = self.auxiliary_head(maps[4], train=train, rngs=rngs)
        if self.presence_head is not None:
            presence = outputs(self.pooling, self.presence_head, maps[4])
            found["presence"] = presence.astype(at_least_float32(presence.dtype))
        return found

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the maps "p2" to "p5" of the head's pyramid; `backbone.features` are those of the backbone."""
        maps = self._maps(images, train=train, rngs=rngs)
        return {f"p{level}": x for level, x in self.decode_head.pyramid(maps, train=train).items()}

    def segment(
        self, images: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Int[Array, "b height width"]:
        """Return the class of each pixel, int32, of normalised images that lie on their canvas already.

        The logits are resized bilinearly before the largest is chosen; of equal ones the first. The network is in
        evaluation, whatever its mode.

        Args:
            images: [b, h, w, c].
            size: height and width of the result; None is those of the images.
        """
        height, width = images.shape[1:3] if size is None else size
        logits: Any = self(images, train=False)
        return jnp.argmax(resize_bilinear(logits, height, width), -1).astype(jnp.int32)

    def _maps(self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None) -> dict[int, Array]:
        require_images(images, self.in_channels)
        maps = self.backbone.features(images, train=train, rngs=rngs)
        return {level: maps[stage] for level, stage in self._stages}

    def _logits(self, maps: dict[int, Array], *, train: bool | None, rngs: nnx.Rngs | None) -> Array:
        fused = self.decode_head(self.decode_head.pyramid(maps, train=train), train=train)
        return self.classifier(fused, train=train, rngs=rngs)
