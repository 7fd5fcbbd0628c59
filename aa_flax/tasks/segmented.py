"""What a segmentation network says about one photograph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Segmented:
    """The class of each pixel of a photograph."""

    labels: UInt8[np.ndarray, "h w"]

    def parts(self, num_classes: int) -> list[tuple[int, int, float]]:
        """Return (class, pixels, part of all pixels) of each class that is there, the largest first."""
        counts = np.bincount(self.labels.reshape(-1), minlength=num_classes)
        order = np.argsort(-counts, kind="stable")
        return [(int(k), int(counts[k]), float(counts[k] / self.labels.size)) for k in order if counts[k]]

    def lines(self, names: Sequence[str], least_part: float) -> list[str]:
        """Return a line for each class that has at least a part of the pixels, the largest first."""
        parts = self.parts(len(names))
        return [f"  {100 * part:6.2f} %  {names[k]}" for k, _, part in parts if part >= least_part]

    def values(self, names: Sequence[str], least_part: float) -> dict[str, Any]:
        """Return size and classes as JSON has them; "label" is the number of the class in a picture of labels."""
        classes = [
            {"class": names[k], "label": k, "pixels": pixels, "part": part}
            for k, pixels, part in self.parts(len(names))
            if part >= least_part
        ]
        return {"height": self.labels.shape[0], "width": self.labels.shape[1], "classes": classes}
