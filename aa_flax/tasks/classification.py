"""Training a network to name the one class of each image."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.config import fields
from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.datasets import Dataset
from aa_flax.data.pipeline import eval_batches
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.source import Source
from aa_flax.data.targets import ClassLabel, Targets
from aa_flax.drawing.attention_figures import draw_attention
from aa_flax.drawing.class_bars import draw_classes
from aa_flax.drawing.plots import confusion_matrix
from aa_flax.evaluation.classification import confusion_and_loss, in_top, per_class
from aa_flax.literal import told_apart
from aa_flax.tasks.augmentation import make_placed_augment
from aa_flax.tasks.class_weights import balanced_weights, check_weights, weights_of_images
from aa_flax.tasks.losses import LOSSES, target_distribution
from aa_flax.tasks.mixing import check_pairs, mixed
from aa_flax.tasks.network import build_network, require_same_classes
from aa_flax.tasks.options import options_of
from aa_flax.tasks.results import Classification as Result
from aa_flax.tasks.task import RandomKey, Scores

_TOP = 5
"""Classes that may be named for `top5_accuracy`; with no more classes than these it would always be 1."""


@dataclass(frozen=True)
class ClassificationOptions:
    """Options of classification: the fields of `config.task.options`."""

    loss: Literal["cross_entropy", "binary_cross_entropy"] = fields.field(
        "cross_entropy", "what is trained on; held out it is cross-entropy"
    )
    binary_targets: bool = fields.field(
        False, 'with "binary_cross_entropy", let each class of a mixed image count as wholly there'
    )
    label_smoothing: float = fields.field(
        0.0, "part of each target that is spread over all classes", at_least=0, below=1
    )
    class_weights: Literal["balanced"] | tuple[float, ...] = fields.field(
        (),
        'weight of each class in the loss that is trained on, in the order of the labels, or "balanced", by which '
        "each counts the same however many images it has; () is 1 for each",
        accepts=('"balanced" or numbers above 0', lambda weights: weights == "balanced" or all(w > 0 for w in weights)),
    )


@dataclass(frozen=True)
class ClassificationDisplay:
    """What is printed about a photograph."""

    top: int = fields.field(5, "how many classes to print for each image", at_least=1)


class Classification:
    """The task of naming the one class of each image, scored by held-out cross-entropy, accuracy and top-5 accuracy.

    The last is the part of the images whose class is among the five of largest logits; networks of five classes or
    fewer have no such score.
    """

    targets: Targets = ClassLabel()
    metrics: Mapping[str, Any] = {"accuracy": jnp.int32}
    headline = "accuracy"
    beside = ("top5_accuracy",)
    fractions = frozenset({"accuracy", "top5_accuracy", "accuracy_per_class"})
    display = ClassificationDisplay
    options_type = ClassificationOptions
    serves = ("logits", "probabilities")

    def __init__(self, config: Config, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self.options = options_of(config, ClassificationOptions)
        if self.options.binary_targets and (
            self.options.loss != "binary_cross_entropy" or self.options.label_smoothing
        ):
            raise ConfigError(
                "config field 'task.options.binary_targets' goes with 'loss' = 'binary_cross_entropy' and without "
                "'label_smoothing', which gives every class a part of every image"
            )
        self._weights = None if self.options.class_weights == "balanced" else self.options.class_weights
        if self._weights:
            check_weights(self._weights, preprocessing.class_names)
        self._augment = make_placed_augment(config, preprocessing)

    def begin(self, source: Source | None) -> None:
        """Count the images of each class of the training split if the weights of classes depend on them.

        Without a split, each class has the weight 1.
        """
        if self.options.class_weights == "balanced":
            names = self.preprocessing.class_names
            ones = (1.0,) * len(names)
            self._weights = ones if source is None else balanced_weights(source.all_targets()["label"], names)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.preprocessing.class_names)

    @functools.cached_property
    def shown_names(self) -> list[str]:
        """The name of each class as it is printed and drawn, different from all others."""
        return told_apart(self.preprocessing.class_names)

    def check(self, devices: int) -> None:
        """Raise ConfigError unless every device gets whole pairs of images, if images are mixed."""
        check_pairs(self.config, devices)

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise ConfigError unless the classes are those that the network was trained on."""
        require_same_classes(dataset, self.preprocessing)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return the network of the config, with an output for each class."""
        return build_network(self.config, self.preprocessing, self.num_classes, rngs)

    def prepare(self, batch: Mapping[str, Array], key: RandomKey) -> tuple[Array, Any, Array]:
        """Return augmented images; targets {"distribution": [b, classes], "label": [b]}; the number of images.

        Of padded signals, the targets also say which locations are "valid".

        With weights w of classes the loss is what PyTorch's CrossEntropyLoss(weight=w, label_smoothing=...) gives:

        sum over images i and classes k of w_k t_ik (-log p_ik) / sum over i of w_i

        for predictions p, targets t and the weight w_i of an image, that of its class. Instead of the number of images
        the sum of w_i is returned, and targets are w t. If images are mixed, w_i is mixed as their targets are. (For
        targets that are distributions PyTorch divides by the number of images.) Binary cross-entropy is the weighted
        mean of the images' losses, with weights w_i, the target {"weight": [b]}.
        """
        images, _ = self._augment(batch["image"], batch.get("placement"), key)
        targets = target_distribution(batch["label"], self.num_classes, self.options.label_smoothing)
        images, targets = mixed(self.config.data, images, targets, key)
        weighted, count = {}, jnp.asarray(images.shape[0], targets.dtype)
        if self.options.class_weights:
            if self._weights is None:
                raise RuntimeError("class_weights is 'balanced': begin(source) must be called before prepare")
            weights = jnp.asarray(self._weights, targets.dtype)
            of_images = weights_of_images(targets, weights, self.options.label_smoothing)
            count = of_images.sum()
            if self.options.loss == "cross_entropy":
                targets = weights[None] * targets
            else:
                weighted = {"weight": of_images}
        if self.options.binary_targets:
            targets = (targets > 0).astype(targets.dtype)
        seen = self._seen(images, batch.get("placement"))
        return images, {"distribution": targets, "label": batch["label"], **weighted, **seen}, count

    def _seen(self, images: Array, placement: Array | None) -> dict[str, Array]:
        """Return which locations of padded signals are valid, as the network takes it; nothing of others."""
        return {} if placement is None else {"valid": self.preprocessing.valid(images, placement)}

    def losses(
        self, model: Any, images: Array, targets: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Array, dict[str, tuple[Array, Any]]]:
        """Return each image's loss, times its weight, and how many images were classified correctly."""
        seen = {name: targets[name] for name in ("valid",) if name in targets}
        logits = model(images, train=train, rngs=rngs, **seen)
        losses = LOSSES[self.options.loss](logits, targets["distribution"])
        if "weight" in targets:
            losses = targets["weight"] * losses
        # In the loss's type (exact up to 2**24), so that one collective sums both over the devices.
        correct = jnp.sum(logits.argmax(-1) == targets["label"], dtype=losses.dtype)
        return losses, {"accuracy": (correct, targets["label"].size)}

    def predict(self, model: Any, images: Array, placement: Array | None = None) -> Array:
        """Return logits [b, classes]."""
        return model(images, train=False, rngs=None, **self._seen(images, placement))

    def serve(self, model: Any, images: Array, sizes: Float[Array, "b 2"], form: str) -> dict[str, Array]:
        """Return the logits, or the probabilities, of each class, float32 [b, classes]."""
        logits = self.predict(model, images).astype(jnp.float32)
        return {form: logits if form == "logits" else jax.nn.softmax(logits)}

    def score(self, predictions: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the confusion matrix, the sum of cross-entropies, and of more than five classes "top5", a count."""
        sums = confusion_and_loss(predictions, batch["label"], batch["mask"])
        if self.num_classes > _TOP:
            sums["top5"] = in_top(predictions, batch["label"], batch["mask"], _TOP)
        return sums

    def scores(self, sums: Mapping[str, Any]) -> Scores:
        """Return cross-entropy in nats and accuracies; as details accuracy by class and the confusion matrix."""
        confusion = np.asarray(sums["confusion"])
        examples = int(confusion.sum())
        by_name = zip(self.preprocessing.class_names, per_class(confusion), strict=True)
        values = {"loss": float(sums["loss"]) / examples, "accuracy": float(np.trace(confusion) / examples)}
        if "top5" in sums:
            values["top5_accuracy"] = int(sums["top5"]) / examples
        return Scores(
            values=values,
            details={
                "accuracy_per_class": {name: score if score == score else None for name, score in by_name},
                "confusion": confusion.tolist(),
            },
            examples=examples,
        )

    def lines(self, scores: Scores) -> list[str]:
        """Return lines with the accuracy of each class."""
        accuracies = scores.details["accuracy_per_class"].values()
        return [
            f"     - %  {name}, no examples" if accuracy is None else f"{100 * accuracy:6.2f} %  {name}"
            for name, accuracy in zip(self.shown_names, accuracies, strict=True)
        ]

    def report(self, model: nnx.Module, scores: Scores, source: Source, folder: Path) -> None:
        """Draw the confusion matrix, and what the network attends to in three images of three classes.

        Signals are no pictures, and what is attended to in them is not drawn.
        """
        names, preprocessing = self.preprocessing.class_names, self.preprocessing
        confusion_matrix(np.asarray(scores.details["confusion"]), names, folder / "confusion_matrix.png")
        if preprocessing.of_signals:
            return
        with eval_batches(source, batch_size=min(64, len(source)), view=preprocessing.view()) as batches:
            batch = next(batches)
        _, firsts = np.unique(batch["label"], return_index=True)
        shown = np.sort(firsts)[:3]
        pixels, titles = batch["image"][shown], [self.title({"label": batch["label"][row]}) for row in shown]
        images = preprocessing.normalize(jnp.asarray(pixels))
        draw_attention(model, images, pixels, titles, folder / "attention_maps.png", names)

    def title(self, example: Mapping[str, Any]) -> str:
        """Return the name of the class."""
        return self.shown_names[int(example["label"])]

    def describe(self, prediction: Any, display: ClassificationDisplay) -> list[str]:
        """Return the most probable classes, a line each."""
        return [f"  {100 * probability:6.2f} %  {name}" for _, name, probability in self._ranked(prediction)][
            : display.top
        ]

    def values(self, prediction: Any, display: ClassificationDisplay) -> list[dict[str, Any]]:
        """Return the most probable classes with their probabilities, as JSON has them."""
        names = self.preprocessing.class_names
        ranked = self._ranked(prediction)[: display.top]
        return [{"class": names[k], "probability": probability, "label": k} for k, _, probability in ranked]

    def captions(self, prediction: Any) -> list[tuple[int, str]]:
        """Return the number of each class with its name and probability, the most probable first."""
        return [(k, f"{name}\n{100 * probability:.1f} %") for k, name, probability in self._ranked(prediction)]

    def draw(self, prediction: Any, pixels: np.ndarray, display: ClassificationDisplay, file: Any) -> None:
        """Draw the photograph with bars of the most probable classes."""
        ranked = self._ranked(prediction)[: display.top]
        labels, probabilities = [k for k, _, _ in ranked], [probability for *_, probability in ranked]
        draw_classes(pixels, labels, probabilities, self.preprocessing.class_names, file)

    def result(self, prediction: Any, display: ClassificationDisplay, photo: Any) -> Result:
        """Return the prediction as Python has it; `photo` returns the photograph's pixels."""
        return Result(self, prediction, display, photo)

    def probabilities(self, prediction: Any) -> Float[np.ndarray, " classes"]:
        """Return the probability of each class."""
        shifted = np.exp(np.asarray(prediction, np.float32) - np.max(prediction).astype(np.float32))
        return shifted / shifted.sum()

    def _ranked(self, logits: Any) -> list[tuple[int, str, float]]:
        """Return (number, name as it is shown, probability) of each class, the most probable first."""
        probabilities, names = self.probabilities(logits), self.shown_names
        return [(int(k), names[k], float(probabilities[k])) for k in np.argsort(-probabilities, kind="stable")]
