"""What is chosen for each task where the user says nothing: network, size of the images, optimiser and steps.

The choices for a CPU are for two cores and a quarter of an hour or so; those for an accelerator are twice as large.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.finetuning.folder import Photographs
from aa_flax.finetuning.start import Start
from aa_flax.models.registry import list_models, model_options
from aa_flax.weights import WeightsError


def on_cpu() -> bool:
    """Return whether there is no accelerator."""
    return jax.default_backend() == "cpu"


def batch_for(count: int, most: int) -> int:
    """Return a batch size: a power of two times the devices, at most `most` a step, for `count` examples.

    There are eight batches or more of that size in them; but it is at least eight where there are as many examples, as
    batch norms need, and at least the number of devices.
    """
    devices = jax.device_count()
    each = max(min(most, max(count // 8, min(count, 8))) // devices, 1)
    return devices * 2 ** (each.bit_length() - 1)


class Choice(Protocol):
    """The choices for a task."""

    def small(self, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return the name and the options of a network that learns from nothing."""

    def from_start(self, start: Start, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return the name and the options of the network that takes the weights of a trained one."""

    def fill(self, config: Any, photographs: Photographs, start: Start | None) -> None:
        """Set the fields of a config but network, data set, batches' number and what waits; batch_size is the most."""

    def steps(self, trained: bool) -> int:
        """Return how many steps are about right, from a trained network or from nothing."""


def _adamw(config: Any, learning_rate: float, clip_norm: float = 0.0) -> None:
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.05
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    config.optimizer.clip_norm = clip_norm


def _as_seen(config: Any, seen: Preprocessing | None) -> None:
    """Let photographs be seen as the trained network saw them."""
    if seen is not None and seen.channels == 3:
        config.data.mean, config.data.std = seen.mean, seen.std
        config.data.interpolation = seen.interpolation


def _cached(config: Any, photographs: Photographs) -> None:
    """Keep decoded images in memory where they need less than a gigabyte."""
    pixels = sum(photographs.dataset.splits.values()) * float(np.prod(photographs.sizes, axis=1).mean())
    config.data.cache = bool(3 * pixels < 2**30)


class Classes:
    """Photographs in folders of classes."""

    def small(self, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return a ResNet-18, on a CPU half as wide as usual."""
        return "resnet18", {"width": 32} if on_cpu() else {}

    def from_start(self, start: Start, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return the network itself, or the backbone of a detector or segmentation network."""
        if start.task == "classification":
            return start.name, dict(start.options)
        return start.backbone, start.options_of(start.backbone)

    def fill(self, config: Any, photographs: Photographs, start: Start | None) -> None:
        """Set crops of random size, flips, label smoothing, and the size that the photographs have or allow."""
        own = None if start is None or start.task != "classification" else start.image_size
        largest = 128 if on_cpu() else 224
        side = min(largest, max(32, photographs.shorter_side() // 32 * 32))
        config.data.image_size = own or side
        config.data.crop = "resized"
        config.data.flip = True
        seen = None if start is None else start.seen
        _as_seen(config, seen)
        if seen is not None and own:
            config.data.resize, config.data.crop_fraction = seen.resize, seen.crop_fraction
        _cached(config, photographs)
        config.task.options.label_smoothing = 0.1
        config.batch_size = 32 if on_cpu() else 64
        _adamw(config, 2e-3 if start is None else 1e-3)

    def steps(self, trained: bool) -> int:
        """Return 600 steps, or 1200 from nothing; twice as many on an accelerator."""
        return (600 if trained else 1200) * (1 if on_cpu() else 2)


class _Around:
    """What detection and segmentation share: a network around a backbone, and canvases of the photographs' aspect."""

    longest = (320, 640)  # on a CPU, on an accelerator

    def _around(self, start: Start, prefix: str, **more: Any) -> tuple[str, dict[str, Any]]:
        """Return the network of a family around the backbone of a trained one."""
        name = prefix + start.backbone
        if name not in list_models():
            raise WeightsError(
                f"{start.place}: of {start.name}, around whose backbone there is no {prefix.rstrip('_')}"
            )
        types = model_options(name)
        return name, {**{key: value for key, value in more.items() if key in types}, **start.options_of(name)}

    def _canvas(self, config: Any, photographs: Photographs, start: Start | None) -> None:
        own = None if start is None or start.task != photographs.task else start.image_size
        with config.data.ignore_type():
            config.data.image_size = own or photographs.canvas(self.longest[not on_cpu()])
        config.data.crop = "scaled"
        config.data.flip = True
        _as_seen(config, None if start is None else start.seen)
        _cached(config, photographs)


class Boxes(_Around):
    """Photographs with boxes."""

    def small(self, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return a RetinaNet around a ResNet-18, on a CPU half as wide as usual, with narrow heads."""
        narrow = dict(width=32, fpn_width=64, head_width=64, head_depth=2) if on_cpu() else dict(head_depth=2)
        return "retinanet_resnet18", {**narrow, **self._of_few_images(photographs)}

    def from_start(self, start: Start, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return the detector itself, without its mask head where the folder has no masks; else a RetinaNet."""
        if start.task != "detection":
            kept = dict(pool_padding="symmetric", batch_norm_epsilon=1e-5)  # as classifiers have them
            return self._around(start, "retinanet_", head_depth=2, **kept, **self._of_few_images(photographs))
        if not start.name.startswith("mask_rcnn_") or self._has_masks(photographs):
            return start.name, dict(start.options)
        name = start.name.replace("mask_rcnn_", "faster_rcnn_", 1)
        types = model_options(name)
        return name, {option: value for option, value in start.options.items() if option in types}

    def _of_few_images(self, photographs: Photographs) -> dict[str, Any]:
        """Return batch statistics that follow fast, and anchors that reach the small objects of the folder."""
        boxes, _ = photographs.objects()
        sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).clip(0))
        small = (
            float(np.quantile(sides, 0.1)) * max(photographs.canvas(self.longest[not on_cpu()])) if len(sides) else 64
        )
        # The smallest anchors are 8 · anchor_size pixels.
        return dict(batch_norm_momentum=0.9, anchor_size=4.0 if small >= 28 else 2.0 if small >= 14 else 1.0)

    def _has_masks(self, photographs: Photographs) -> bool:
        truths = photographs.dataset.truths(photographs.train)
        return all(
            all(truth.objects.segmentations) and len(truth.objects.segmentations) == len(truth.boxes)
            for truth in truths
        )

    def fill(self, config: Any, photographs: Photographs, start: Start | None) -> None:
        """Set canvases, crops of 0.8 to 1.2 times the size, and a small learning rate for a trained detector."""
        self._canvas(config, photographs, start)
        config.data.scale_range = (0.8, 1.2)
        _, most = photographs.objects()
        config.task.options.most_objects = max(100, most)
        two_stages = "rcnn" in config.model.name
        config.batch_size = (4 if two_stages else 8) * (1 if on_cpu() else 2)
        trained = start is not None and start.task == "detection"
        _adamw(config, 2e-3 if start is None else 2e-4 if trained and two_stages else 5e-4 if trained else 1e-3, 10.0)

    def steps(self, trained: bool) -> int:
        """Return 400 steps, or 800 from nothing; twice as many on an accelerator."""
        return (400 if trained else 800) * (1 if on_cpu() else 2)


class Maps(_Around):
    """Photographs with label maps."""

    longest = (256, 512)

    def small(self, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return a UPerNet around a ResNet-18, on a CPU half as wide as usual, with a narrow head."""
        narrow: Mapping[str, Any] = dict(width=32, head_width=64, auxiliary_width=64) if on_cpu() else {}
        return "upernet_resnet18", {**narrow, "batch_norm_momentum": 0.9}

    def from_start(self, start: Start, photographs: Photographs) -> tuple[str, dict[str, Any]]:
        """Return the segmentation network itself; else a UPerNet around the backbone."""
        if start.task == "segmentation":
            return start.name, dict(start.options)
        narrow = dict(head_width=128, auxiliary_width=64) if on_cpu() else {}
        return self._around(start, "upernet_", batch_norm_momentum=0.9, **narrow)

    def fill(self, config: Any, photographs: Photographs, start: Start | None) -> None:
        """Set canvases, and crops of 0.75 to 1.5 times the size."""
        self._canvas(config, photographs, start)
        config.data.scale_range = (0.75, 1.5)
        config.batch_size = 8 if on_cpu() else 16
        _adamw(config, 3e-3 if start is None else 1e-3, 1.0)

    def steps(self, trained: bool) -> int:
        """Return 500 steps, or 1000 from nothing; twice as many on an accelerator."""
        return (500 if trained else 1000) * (1 if on_cpu() else 2)


CHOICES: Mapping[str, Choice] = {"classification": Classes(), "detection": Boxes(), "segmentation": Maps()}
"""The choices by the name of the task."""
