"""Kinds of detectors: what differs in training and reading them, and the table of the kinds."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Float

from aa_flax.config.schema import Config, ConfigError
from aa_flax.models.detections import Detections
from aa_flax.models.rcnn_options import MaskRCNNOptions, RCNNOptions
from aa_flax.models.registry import list_models
from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.tasks.masked import Masked
from aa_flax.tasks.one_stage import OneStage
from aa_flax.tasks.task import RandomKey
from aa_flax.tasks.two_stage import TwoStage

Canvas = tuple[int, ...]
"""Height and width in pixels."""


@runtime_checkable  # the shape checker of the tests asks
class DetectorKind(Protocol):
    """How one kind of detector is trained and read; `aa_flax.tasks.detection` has what all kinds share.

    A kind is made as `kind(network, config)`, of the options of what stands around the network's backbone and of the
    run's config.

    Objects are {"boxes" [b, n, 4] in pixels of the canvas, "columns" int [b, n] of the class scores, "valid" [b, n]},
    and of a kind with masks "masks" uint8 [b, n, s, s], 0 and 1 for the cells of each box.
    Sizes are the height and width of each image on the canvas, [b, 2].

    Attributes:
        masks: whether it is trained on masks and finds them.
        metrics: what `losses` returns besides the loss, as `Task.metrics`.
        needs_loops: of the forms "detections" and "candidates" those with non-maximum suppression, which is a loop.
    """

    masks: bool
    metrics: Mapping[str, Any]
    needs_loops: tuple[str, ...]

    def check(self) -> None:
        """Raise ConfigError if the config's batches cannot be trained on."""

    def prepare(
        self, objects: dict[str, Array], canvas: Canvas, sizes: Float[Array, "b 2"], key: RandomKey
    ) -> tuple[dict[str, Array], Float[Array, ""]]:
        """Return what `losses` needs of a batch, as arrays [b, ...], and what the sum of the losses is divided by."""

    def losses(
        self, model: Any, images: Array, targets: dict[str, Array], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Any]]]:
        """Return each image's loss, and each of the `metrics` as a sum and the count that divides it."""

    def predict(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> dict[str, Any]:
        """Return all that `detections` and `score` need of the network."""

    def detections(self, predictions: dict[str, Any], canvas: Canvas, sizes: Float[Array, "b 2"]) -> Detections:
        """Return the objects found in each image, boxes in pixels of the canvas."""

    def candidates(self, model: Any, images: Array, sizes: Float[Array, "b 2"]) -> tuple[Array, Array]:
        """Return what non-maximum suppression chooses from, fixed in number.

        It is scores [b, n, columns], 0 to 1, and boxes [b, n, 4] in pixels of the canvas, or [b, n, columns, 4] where
        each column has its own.
        """

    def score(self, predictions: dict[str, Any], objects: dict[str, Array], canvas: Canvas) -> dict[str, Array]:
        """Return numbers of each held-out image, [b], that add up to what `held_out` is given."""

    def held_out(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Return "loss" and its parts from the sums of `score` over all images, and "images", their number."""


KINDS: Mapping[type, type] = {RetinaNetOptions: OneStage, RCNNOptions: TwoStage, MaskRCNNOptions: Masked}
"""From the type of the options of what stands around a backbone to the kind of the detector."""


def kind_of(network: Any, config: Config) -> DetectorKind:
    """Return the kind of the detector with these options; ConfigError if they are of none."""
    if type(network) not in KINDS:
        way = "; task.name='segmentation' can" if config.model.name in list_models(task="segmentation") else ""
        raise ConfigError(f"config field 'model.name' is {config.model.name!r}, which detection cannot train{way}")
    return KINDS[type(network)](network, config)
