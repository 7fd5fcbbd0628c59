"""What a network expects of an image. It is kept with a run, so that the network can be used without the run's data."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.augment import device as augment
from aa_flax.data.datasets import Dataset
from aa_flax.data.facts import Facts
from aa_flax.data.images import Interpolation
from aa_flax.data.statistics import as_pixel, mean_and_std
from aa_flax.data.view import Resize, View
from aa_flax.typed import as_type, field_types, height_and_width


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of an image, and the classes that it was trained on.

    Attributes:
        image_size: (height, width) in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        mean, std: mean and standard deviation per channel, of pixels in 0..1, for normalisation.
        class_names: the name of each class, in the order of the labels.
        dtype: the name of the dtype in which the run computes.
        data_fingerprint: the fingerprint of the data set that the run was trained on.
        category_ids: the number of each class in the files of a data set of detection; () for others.
        resize, crop_fraction, interpolation, sides: what is seen of an image when nothing is augmented, as in `View`.
        class_colors: red, green and blue, 0 to 255, of each class of label maps, () of one without; () if none has.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    dtype: str
    data_fingerprint: str
    resize: Resize = "squash"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bilinear"
    category_ids: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    class_colors: tuple[tuple[int, ...], ...] = ()

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

    def view(self, size: tuple[int, int] | None = None) -> View:
        """Return the view through which a photograph is seen, at `size` = (height, width) or at the run's own size."""
        return View(size or self.image_size, self.resize, self.crop_fraction, self.interpolation, self.sides)

    def normalize(
        self, images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"], placement: Float[Array, "b 8"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Return (images / 255 - mean) / std, per channel, of pixels 0 to 255, in the run's compute dtype.

        With the placement of each image, as `Placement.as_array` gives it, the padding is 0.
        """
        normalized = augment.normalize(images, self.mean, self.std, jnp.dtype(self.dtype))
        return normalized if placement is None else augment.without_padding(normalized, placement[:, 4:6])

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
        return found


def preprocessing_for(config: Config, dataset: Dataset) -> Preprocessing:
    """Return the preprocessing of the images of `dataset` that `config` asks for.

    Raises:
        ConfigError: a field of the config does not fit the data set; the message names the field.
    """
    channels = dataset.image_shape[-1]
    height, width = _image_size(config, dataset.name, dataset.image_shape)
    if config.data.on_device and (height, width) != dataset.image_shape[:2]:
        raise ConfigError("config field 'data.on_device' needs images of one size, and 'data.image_size' of that or 0")
    mean, std = config.data.mean or dataset.mean, config.data.std or dataset.std
    if len(mean) != channels:
        raise ConfigError(f"config field 'data.mean' has {len(mean)} values for images of {channels} channels")
    trained = config.data.train_sizes or ((height, width),)
    least = min(trained, key=min)
    if config.data.crop == "pad" and not 1 <= config.data.crop_padding <= min(least):
        raise ConfigError(
            f"config field 'data.crop_padding' must lie in [1, {min(least)}] for images of {least[0]}x{least[1]}, "
            f"got {config.data.crop_padding}; 'data.crop' = 'none' turns cropping off"
        )
    return Preprocessing(
        image_size=(height, width),
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        class_names=tuple(dataset.class_names),
        dtype=config.model.dtype,
        data_fingerprint=dataset.fingerprint,
        category_ids=dataset.category_ids if dataset.has_objects else (),
        class_colors=dataset.class_colors,
        **seen_by(config),
    )


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
    mean, std = mean_and_std(config.data.name, channels)
    return Preprocessing(
        image_size=size or _image_size(config, config.data.name, facts.image_shape),
        channels=channels,
        mean=config.data.mean or mean,
        std=config.data.std or std,
        class_names=tuple(map(str, range(facts.num_classes))),
        dtype=config.model.dtype,
        data_fingerprint="",
        category_ids=facts.category_ids,
        **seen_by(config),
    )


def _image_size(config: Config, name: str, shape: tuple[int | None, int | None, int]) -> tuple[int, int]:
    """Return (height, width) of what images of a shape become; ConfigError if they differ in size and none is set."""
    given = config.data.image_size
    height, width = height_and_width("config field 'data.image_size'", given) if given else shape[:2]
    if height is None or width is None:
        raise ConfigError(f"images of {name!r} differ in size: config field 'data.image_size' must be set")
    return height, width


def seen_by(config: Config) -> dict[str, Any]:
    """Return the fields of a `Preprocessing` that say what is seen of an image, by name.

    Where `data.resize` is not set, it is "center_crop" for `data.crop` "resized", "fit" for "scaled", else "squash".
    """
    data = config.data
    resize = data.resize or {"resized": "center_crop", "scaled": "fit"}.get(data.crop, "squash")
    seen = {"crop_fraction": data.crop_fraction, "interpolation": data.interpolation, "sides": data.scale_sides}
    return {"resize": resize, **seen}
