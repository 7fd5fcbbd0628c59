"""What a network expects of an image. It is kept with a run, so that the network can be used without the run's data."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, UInt8

from aa_flax.config.schema import Config, ConfigError, Dtype
from aa_flax.data.augment import device as augment
from aa_flax.data.datasets import Dataset
from aa_flax.data.facts import Facts
from aa_flax.data.images import Interpolation
from aa_flax.data.signals import Whole
from aa_flax.data.statistics import as_pixel, mean_and_std
from aa_flax.data.view import Resize, View
from aa_flax.typed import as_type, field_types, sides


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of an image, or of a signal, and the classes that it was trained on.

    Attributes:
        image_size: (height, width) in pixels; of signals as many sides as they have axes.
        channels: 1 for grey, 3 for red, green and blue; of signals any number.
        mean, std: mean and standard deviation per channel, of pixels in 0..1, for normalisation.
        class_names: the name of each class, in the order of the labels.
        dtype: the name of the dtype in which the run computes.
        data_fingerprint: the fingerprint of the data set that the run was trained on.
        category_ids: the number of each class in the files of a data set of detection; () for others.
        resize, crop_fraction, interpolation, sides: what is seen of an image when nothing is augmented, as in `View`.
        class_colors: red, green and blue, 0 to 255, of each class of label maps, () of one without; () if none has.
        of_signals: whether it is of signals, see `aa_flax.data.signals`, and not of images.
        padded: whether these differ in size, so that batches have the sides of each as "placement".
    """

    image_size: tuple[int, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    dtype: Dtype
    data_fingerprint: str
    resize: Resize = "squash"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bilinear"
    category_ids: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    class_colors: tuple[tuple[int, ...], ...] = ()
    of_signals: bool = False
    padded: bool = False

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Return the size of images; of signals it raises ValueError."""
        height, width = self.image_size
        return height, width

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of what the network tells apart, by which weights of other networks are compared."""
        return self.class_names

    @property
    def mean_pixel(self) -> tuple[int, ...]:
        """Return the mean as a pixel, 0 to 255, whose normalised value is zero to within half a grey level."""
        return as_pixel(self.mean)

    def view(self, size: tuple[int, ...] | None = None) -> Any:
        """Return the view through which a photograph is seen, at `size` = (height, width) or at the run's own size.

        It is a `View`, of signals a `Whole`.
        """
        if self.of_signals:
            return Whole(size or self.image_size)
        seen: Any = size or self.image_size
        return View(seen, self.resize, self.crop_fraction, self.interpolation, self.sides)

    def normalize(
        self,
        images: UInt8[Array, "b *space c"] | Float[Array, "b *space c"],
        placement: Float[Array, "b _"] | None = None,
    ) -> Float[Array, "b *space c"]:
        """Return (images / 255 - mean) / std, per channel, of pixels 0 to 255, in the run's compute dtype.

        Signals are not divided by 255. With the placement of each image, as `Placement.as_array` gives it, the padding
        is 0.
        """
        unit = 1.0 if self.of_signals else 255.0
        normalized = augment.normalize(images, self.mean, self.std, jnp.dtype(self.dtype), unit=unit)
        if placement is None:
            return normalized
        return augment.without_padding(normalized, placement if self.of_signals else placement[:, 4:6])

    def valid(self, images: Num[Array, "b *space c"], placement: Float[Array, "b _"]) -> Bool[Array, "b *space"]:
        """Return which locations of signals are there and not padding."""
        return augment.within(placement, images.shape[1:-1])

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Return the preprocessing whose fields were read from JSON, which has lists where the fields are tuples.

        Raises:
            TypeError, ValueError: a field is unknown, missing or of another type, or they do not fit together.
        """
        types, checked = field_types(cls), {}
        for name, value in values.items():
            try:
                checked[name] = as_type(types[name], value) if name in types else value
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} {error}") from None
        found = cls(**checked)
        if not len(found.mean) == len(found.std) == found.channels:
            raise ValueError(f"mean {found.mean} and std {found.std} are not those of {found.channels} channels")
        if not all(each > 0 for each in found.std):
            raise ValueError(f"std must be above 0, got {found.std}")
        return found


def preprocessing_for(config: Config, dataset: Dataset) -> Preprocessing:
    """Return the preprocessing of the images of `dataset` that `config` asks for.

    Raises:
        ConfigError: a field of the config does not fit the data set; the message names the field.
    """
    *own, channels = dataset.image_shape
    size = _image_size(config, dataset.name, dataset.largest or tuple(own))
    if config.data.on_device and size != tuple(own):
        raise ConfigError("config field 'data.on_device' needs images of one size, and 'data.image_size' of that or 0")
    mean, std = config.data.mean or dataset.mean, config.data.std or dataset.std
    if len(mean) != channels:
        raise ConfigError(f"config field 'data.mean' has {len(mean)} values for images of {channels} channels")
    if dataset.has_signals:
        _require_no_image_fields(config, dataset.name)
        if any(side > most for side, most in zip(dataset.largest, size, strict=True)):
            raise ConfigError(
                f"config field 'data.image_size' is {size}, and signals of {dataset.name!r} have up to "
                f"{dataset.largest}"
            )
    trained = config.data.train_sizes or (size,)
    least = min(trained, key=min)
    if config.data.crop == "pad" and not 1 <= config.data.crop_padding <= min(least):
        raise ConfigError(
            f"config field 'data.crop_padding' must lie in [1, {min(least)}] for images of {least[0]}x{least[1]}, "
            f"got {config.data.crop_padding}; 'data.crop' = 'none' turns cropping off"
        )
    return Preprocessing(
        image_size=size,
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        class_names=tuple(dataset.class_names),
        dtype=config.model.dtype,
        data_fingerprint=dataset.fingerprint,
        category_ids=dataset.category_ids if dataset.has_objects else (),
        class_colors=dataset.class_colors,
        of_signals=dataset.has_signals,
        padded=dataset.has_signals and None in own,
        **seen_by(config),
    )


_OF_IMAGES = ("flip", "auto_augment", "color_jitter", "photometric", "cutout", "random_erasing", "mixup", "cutmix")
"""Fields of `config.data` that must be off for signals, which are seen as they are."""


def _require_no_image_fields(config: Config, name: str) -> None:
    """Raise ConfigError for the fields that crop, resize or augment images, where the data set has signals."""
    data = config.data
    for field, off in (("crop", "none"), ("resize", ""), ("train_sizes", ()), ("on_device", False)):
        if getattr(data, field) != off:
            raise ConfigError(
                f"config field 'data.{field}' must be {off!r} for {name!r}, which has signals, got "
                f"{getattr(data, field)!r}"
            )
    if given := [field for field in _OF_IMAGES if getattr(data, field)]:
        raise ConfigError(f"config field 'data.{given[0]}' augments images, and {name!r} has signals: it must be off")


def preprocessing_without_data(config: Config, facts: Facts, size: tuple[int, int] | None = None) -> Preprocessing:
    """Return the preprocessing that `config` asks for, of a data set of which only the facts are known.

    Args:
        config: the config of a run.
        facts: the facts of its data set.
        size: (height, width) of the images that the network gets; None for the config's, or else the data set's own.

    Raises:
        ConfigError: the images differ in size and no size is given.
    """
    channels = facts.image_shape[-1]
    mean, std = ((0.0,) * channels, (1.0,) * channels) if facts.signals else mean_and_std(config.data.name, channels)
    return Preprocessing(
        image_size=size or _image_size(config, config.data.name, facts.image_shape[:-1]),
        channels=channels,
        mean=config.data.mean or mean,
        std=config.data.std or std,
        class_names=tuple(map(str, range(facts.num_classes))),
        dtype=config.model.dtype,
        data_fingerprint="",
        category_ids=facts.category_ids,
        of_signals=bool(facts.signals),
        padded=facts.signals == "padded",
        **seen_by(config),
    )


def _image_size(config: Config, name: str, own: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the size that images of a size of their own get; ConfigError if they differ in size and none is set."""
    if given := config.data.image_size:
        given = (given,) * len(own) if isinstance(given, int) else given
        try:
            return sides("config field 'data.image_size'", given, len(own))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if None in own:
        raise ConfigError(f"images of {name!r} differ in size: config field 'data.image_size' must be set")
    return own


def seen_by(config: Config) -> dict[str, Any]:
    """Return the fields of a `Preprocessing` that say what is seen of an image, by name.

    Where `data.resize` is not set, it is "center_crop" for `data.crop` "resized", "fit" for "scaled", else "squash".
    """
    data = config.data
    resize = data.resize or {"resized": "center_crop", "scaled": "fit"}.get(data.crop, "squash")
    seen = {"crop_fraction": data.crop_fraction, "interpolation": data.interpolation, "sides": data.scale_sides}
    return {"resize": resize, **seen}
