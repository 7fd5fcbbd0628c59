"""What detectors have around a backbone before their heads: the pyramid, the frozen parts, and the call's settings."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.fpn import FPN
from aa_flax.layers.mode import WithMode
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.models.backbones import first_stages, norms_of_its_own, take_maps
from aa_flax.models.stages import FeatureInfo, require_images


class PyramidDetector(WithMode):
    """A backbone whose maps a feature pyramid joins; detectors put heads on its levels.

    The batch norms of the backbone get the momentum and epsilon of the options. Gates of attention modules keep batch
    norms of their own; `DetectorOptions` says what is frozen.

    Args:
        options: `DetectorOptions` of the kind of detector.
        backbone: a network with `features` and `feature_info`, at stride 2**l for every level l from `min_level` to the
            backbone's coarsest one.
        num_classes: columns of the class scores.

    Raises:
        ValueError: options that no such network can have, or maps that the backbone does not give; at call time images
            that do not fit.
    """

    def __init__(
        self,
        options: Any,
        backbone: Any,
        *,
        num_classes: int,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes of a detector must be at least 1, got {num_classes}")
        self.options, self.num_classes = options, num_classes
        self.image_size, self.in_channels = backbone.image_size, backbone.in_channels
        if options.frozen_stem and not hasattr(backbone, "stem"):
            raise ValueError(f"frozen_stem=True needs a backbone with a stem, and {type(backbone).__name__} has none")
        stages = first_stages(backbone, options.frozen_stages) if options.frozen_stages else ()
        stages = stages or (("stem",) if options.frozen_stem else ())
        self._frozen_stages = tuple(f"backbone.{name}" for name in stages)
        self.backbone = backbone
        self._stages = take_maps(backbone, options.min_level, options.max_level)
        for _, own in norms_of_its_own(backbone):
            own.momentum, own.epsilon = options.batch_norm_momentum, options.batch_norm_epsilon
            own.frozen = options.frozen_norms
        self.fpn = FPN(
            {level: backbone.feature_info[stage].channels for level, stage in self._stages},
            width=options.fpn_width,
            max_level=options.max_level,
            extra_from=options.extra_levels_from,
            padding=options.padding,
            norm=self._norm() if options.fpn_norm else None,
            init=options.fpn_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def _norm(self) -> NormFactory:
        """Return the factory of batch norms with the momentum and epsilon of the options."""
        options = self.options
        return functools.partial(batch_norm, momentum=options.batch_norm_momentum, epsilon=options.batch_norm_epsilon)

    @property
    def feature_info(self) -> dict[str, FeatureInfo]:
        """Return the channels and the stride of each map of `features`."""
        return {f"p{level}": FeatureInfo(self.fpn.width, 2**level) for level in self.fpn.levels}

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Return the dotted paths of the modules whose parameters are to stay as they are in training.

        These are the backbone's stem with `frozen_stem`, or its stem and first stages with `frozen_stages`, and the
        backbone's own batch norms outside these with `frozen_norms`. In training they are to get no gradient and no
        weight decay.
        """
        inside = tuple(f"{path}." for path in self._frozen_stages)
        norms = (f"backbone.{path}" for path, norm in norms_of_its_own(self.backbone) if norm.frozen)
        norms = (path for path in norms if path not in self._frozen_stages and not path.startswith(inside))
        return (*self._frozen_stages, *norms)

    def features(
        self, images: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        """Return the maps "p3", "p4" ... of the pyramid; `backbone.features` are those of the backbone."""
        return {f"p{level}": x for level, x in self._pyramid(images, train=train, rngs=rngs).items()}

    def anchors(self, height: int, width: int) -> Float[np.ndarray, "anchors 4"]:
        """Return the anchors of images of that size in pixels, in the order level, row, column, anchor of the place."""
        return self.options.anchor_boxes(height, width)

    def _pyramid(self, images: Array, *, train: bool | None, rngs: nnx.Rngs | None) -> dict[int, Array]:
        require_images(images, self.in_channels)
        maps = self.backbone.features(images, train=train, rngs=rngs)
        return self.fpn({level: maps[stage] for level, stage in self._stages}, train=train)

    def _options_with(self, **given: Any) -> Any:
        """Return the options, with those replaced that are not None."""
        return dataclasses.replace(self.options, **{name: value for name, value in given.items() if value is not None})


def sizes_of(sizes: Any, batch: Any, height: int, width: int) -> Float[Array, "b 2"]:
    """Return the height and width of each image on its canvas, that of the canvas for None.

    Raises:
        ValueError: sizes of another shape than [b, 2].
    """
    if sizes is None:
        return jnp.broadcast_to(jnp.asarray([height, width], jnp.float32), (batch, 2))
    sizes = jnp.asarray(sizes, jnp.float32)
    if sizes.shape != (batch, 2):
        raise ValueError(f"sizes must be height and width of each of {batch} images, got shape {sizes.shape}")
    return sizes
