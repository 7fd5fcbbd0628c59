"""Scores of a classifier over a data set, each example counted exactly once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Predict = Callable[[Any, UInt8[Array, "b h w c"]], Float[Array, "b classes"]]


@dataclass(frozen=True)
class Scores:
    """Mean loss in nats, and how often class i (row) was taken for class j (column)."""

    loss: float
    confusion: Int[np.ndarray, "classes classes"]

    @property
    def examples(self) -> int:
        """How many examples were scored."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Fraction of examples whose most probable class is the right one."""
        return float(np.trace(self.confusion) / self.examples)

    @property
    def accuracy_per_class(self) -> list[float]:
        """The same for each class's own examples; nan for a class without any."""
        totals = self.confusion.sum(1)
        return [float(c / t) if t else float("nan") for c, t in zip(np.diag(self.confusion), totals, strict=True)]


def make_eval_step(predict: Predict, num_classes: int) -> Callable[..., dict[str, Array]]:
    """The function (variables, {"image", "label", "mask"}) -> sums over the unmasked examples; pure, for `jax.jit`."""

    def eval_step(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        logits = predict(variables, batch["image"])
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        labels, mask = batch["label"], batch["mask"]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
        cells = labels * num_classes + logits.argmax(-1)
        counts = jnp.zeros(num_classes * num_classes, jnp.int32).at[cells].add(mask.astype(jnp.int32))
        return {
            "loss": jnp.sum(jnp.where(mask, losses, 0)),
            "confusion": counts.reshape(num_classes, num_classes),
        }

    return eval_step


def evaluate(eval_step: Callable[..., dict[str, Array]], variables: Any, batches: Iterable[dict[str, Any]]) -> Scores:
    """Run a jitted `make_eval_step` over all batches and add up."""
    totals: dict[str, Any] | None = None
    for batch in batches:
        sums = eval_step(variables, {name: batch[name] for name in ("image", "label", "mask")})
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    if totals is None:
        raise ValueError("there is no example to evaluate on")
    confusion = np.asarray(totals["confusion"])
    return Scores(loss=float(totals["loss"]) / int(confusion.sum()), confusion=confusion)
