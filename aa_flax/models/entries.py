"""Entries of the registry: networks with a name, and networks around a backbone, whose names hold the backbone's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from flax import nnx

from aa_flax.layers.norm import NormFactory
from aa_flax.layers.plain_pyramid import PYRAMID_STRIDES
from aa_flax.models.heads import HeadOptions
from aa_flax.typed import field_types


@dataclass(frozen=True)
class Entry:
    """A network with a name.

    Attributes:
        network: function called as `network(options, num_classes=..., image_size=..., ...)`.
        options: dataclass of the network's options.
        plugs: for some of these options, the factory dataclass that makes the value; the fields of the factory replace
            the option among the options of the model.
        defaults: values of options of the model that replace the defaults of the dataclasses.
        num_classes, image_size: values that `create_model` uses if it is given none.
        strides: those of the maps of `features`, in their order; they do not depend on the options.
        dimensions: how many sides its images may have: 1 for signals, 2 for images, 3 for volumes.
        pyramid: None, or a dataclass of options: the network called with `pyramid=` one of these has maps at strides 4,
            8, 16 and 32.
    """

    network: Callable[..., nnx.Module]
    options: type
    plugs: Mapping[str, type]
    defaults: Mapping[str, Any]
    num_classes: int
    image_size: tuple[int, int]
    strides: tuple[int, ...] = ()
    pyramid: type | None = None
    dimensions: tuple[int, ...] = (2,)
    task = "classification"

    @property
    def types(self) -> dict[str, Any]:
        """Return the name and type of every option of the model."""
        plugged = {name: kind for factory in self.plugs.values() for name, kind in field_types(factory).items()}
        own = {name: kind for name, kind in field_types(self.options).items() if name not in self.plugs}
        return {**plugged, **own}

    def assemble(self, given: Mapping[str, Any]) -> Any:
        """Return the network's dataclass of options from the given values, with defaults for the others."""
        values = {**self.defaults, **given}

        def of(schema: type) -> dict[str, Any]:
            return {name: values[name] for name in field_types(schema) if name in values}

        plugs = {argument: factory(**of(factory)) for argument, factory in self.plugs.items()}
        return self.options(**of(self.options), **plugs)

    def classes(self, given: Mapping[str, Any]) -> int:
        """Return the number of classes that the network has by default with the given options."""
        return self.num_classes

    def build(self, given: Mapping[str, Any], **arguments: Any) -> tuple[Any, Any]:
        """Return the network, and the options of the network that `features` are of, itself here."""
        options = self.assemble(given)
        return self.network(options, **arguments), options


class Flavor(NamedTuple):
    """One published form of a network: its number of classes, and the options that it has unless others are given.

    Options that only some backbones have count for these.
    """

    num_classes: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Networks around a backbone, each named by the family's prefix and its backbone's name.

    Attributes:
        prefix: what the names begin with, such as "retinanet_".
        task: what the networks are for.
        network: function called as `network(options, backbone, num_classes=..., dtype=..., param_dtype=..., rngs=...)`.
        options: dataclass of the options of what stands around the backbone.
        flavors: the values that the option `flavor` may have; the first is the default.
        strides: those that some of the backbone's maps must have, those of its pyramid where its own do not.
        hidden: options of backbones that have no effect in these networks, or that the network itself decides.
        image_size: that `create_model` uses if it is given none.
        of_pyramids: values of options that replace the flavor's for a backbone that makes a pyramid, having no stages.
    """

    prefix: str
    task: str
    network: Callable[..., nnx.Module]
    options: type
    flavors: Mapping[str, Flavor]
    strides: tuple[int, ...]
    hidden: frozenset[str]
    image_size: tuple[int, int]
    of_pyramids: Mapping[str, Any] = field(default_factory=dict)

    def serves(self, backbone: Entry) -> bool:
        """Return whether a network has maps at all strides that are needed, or makes a pyramid that has."""
        return {*self.strides} <= {*backbone.strides} or self.pyramid_of(backbone) is not None

    def pyramid_of(self, backbone: Entry) -> type | None:
        """Return the dataclass of options of the backbone's pyramid if that is needed, else None."""
        needed = not {*self.strides} <= {*backbone.strides}
        return backbone.pyramid if needed and {*self.strides} <= {*PYRAMID_STRIDES} else None

    def around(self, backbone: Entry) -> "Surrounded":
        """Return the entry of the network around a backbone."""
        return Surrounded(self, backbone)


@dataclass(frozen=True)
class Surrounded:
    """A network of a family around one backbone; it has what `create_model` asks of an `Entry`."""

    family: Family
    backbone: Entry
    dimensions = (2,)

    @property
    def task(self) -> str:
        """Return what the network is for."""
        return self.family.task

    @property
    def num_classes(self) -> int:
        """Return the number of classes of the default flavor."""
        return self.classes({})

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the default size of the images."""
        return self.family.image_size

    @cached_property
    def types(self) -> dict[str, Any]:
        """Return the name and type of every option: the flavor, those around the backbone, then the backbone's."""
        flavor: Any = Literal[tuple(self.family.flavors)]
        return {"flavor": flavor, **field_types(self.family.options), **self._of_pyramid, **self._of_backbone}

    @cached_property
    def _of_pyramid(self) -> dict[str, Any]:
        pyramid = self.family.pyramid_of(self.backbone)
        return {} if pyramid is None else field_types(pyramid)

    @cached_property
    def _of_backbone(self) -> dict[str, Any]:
        own = {*field_types(self.family.options), *field_types(HeadOptions), *self.family.hidden}
        # Of batch norms the network around decides; whether PatchConvNet has layer or batch norm it does not.
        return {name: kind for name, kind in self.backbone.types.items() if name not in own and kind is not NormFactory}

    def _flavor(self, given: Mapping[str, Any]) -> Flavor:
        flavors = self.family.flavors
        return flavors[given.get("flavor", next(iter(flavors)))]

    def classes(self, given: Mapping[str, Any]) -> int:
        """Return the number of classes of the flavor that is given, or of the default one."""
        return self._flavor(given).num_classes

    def around(self, given: Mapping[str, Any]) -> Any:
        """Return the options of what stands around the backbone, from the given values and the flavor's."""
        return self.family.options(**self._chosen(given, field_types(self.family.options)))

    def _chosen(self, given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
        without_stages = self.family.of_pyramids if self.family.pyramid_of(self.backbone) is not None else {}
        values = {**self._flavor(given).options, **without_stages, **given}
        return {name: value for name, value in values.items() if name in names}

    def build(self, given: Mapping[str, Any], **arguments: Any) -> tuple[Any, Any]:
        """Return the network, and the options of its backbone."""
        options = self.around(given)
        of_backbone = self.backbone.assemble(self._chosen(given, self._of_backbone))
        more: dict[str, Any] = {"num_classes": 0}
        pyramid = self.family.pyramid_of(self.backbone)
        if pyramid is not None:
            more["pyramid"] = pyramid(**self._chosen(given, self._of_pyramid))
        backbone = self.backbone.network(of_backbone, **{**arguments, **more})
        others = {name: arguments[name] for name in ("num_classes", "dtype", "param_dtype", "rngs")}
        return self.family.network(options, backbone, **others), of_backbone
