"""The checks that each implementation must pass before it is timed, and their verdicts."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

KEY_DEPTH = 20  # per head

TOLERANCES = {
    # Sums of up to 1,024 products in float32 (2**-24), relative to the largest entry.
    ("float32", "highest"): 1e-5,
    # TF32 rounds factors of products to 11 bits (2**-12 relative); logits of several units pass the error to weights.
    ("float32", "default"): 3e-3,
    # bfloat16 rounds arguments of products, position terms of the fold, weights and the result to 8 bits (2**-9
    # relative). A logit of up to 8 units is then off by 0.016, its weight by 1.6 %; gradients have two such factors.
    ("bfloat16", "default"): 3e-2,
}
"""Largest permitted error by dtype and matrix precision, relative to the largest entry of the exact result."""


@dataclass(frozen=True)
class Check:
    """A check of one map in one dtype at one matrix precision."""

    height: int
    width: int
    value_depth: int  # per head
    batch: int
    heads: int
    dtype: str
    precision: str

    @property
    def map(self) -> str:
        """The height and width as text, such as 14x14."""
        return f"{self.height}x{self.width}"

    @property
    def tolerance(self) -> float:
        """The largest permitted error."""
        return TOLERANCES[self.dtype, self.precision]

    def inputs(self) -> list[np.ndarray]:
        """Return query, key, value, both tables and a cotangent, in float32 but exact in the check's dtype."""
        rng = np.random.default_rng(zlib.crc32(f"{self.map} {self.value_depth}".encode()))
        place = (self.batch, self.height, self.width, self.heads)
        shapes: list[tuple[int, ...]] = [(*place, KEY_DEPTH), (*place, KEY_DEPTH), (*place, self.value_depth)]
        shapes += [(2 * length - 1, KEY_DEPTH) for length in (self.height, self.width)]
        arrays = [rng.normal(size=shape).astype(np.float32) for shape in (*shapes, shapes[2])]
        if self.dtype == "bfloat16":
            arrays = [array.astype(ml_dtypes.bfloat16).astype(np.float32) for array in arrays]
        return arrays

    def describe(self) -> dict[str, Any]:
        """Return the check as columns of a result."""
        return {
            "map": self.map,
            "value_depth_per_head": self.value_depth,
            "batch": self.batch,
            "heads": self.heads,
            "dtype": self.dtype,
            "precision": self.precision,
            "tolerance": self.tolerance,
        }


def checks(maps: Sequence[tuple[int, int, int]], batch: int, heads: int) -> list[Check]:
    """Return all checks of maps (height, width, value depth): first bfloat16, in which everything is timed."""
    kinds = sorted(TOLERANCES)
    return [Check(*size, batch=batch, heads=heads, dtype=kind[0], precision=kind[1]) for kind in kinds for size in maps]


def judged(check: Check, errors: Mapping[str, float]) -> dict[str, Any]:
    """Return columns of a result from its errors; NaN never passes."""
    wrong = {name: error for name, error in errors.items() if not error <= check.tolerance}
    reason = ", ".join(f"{name} is off by {error:.2g}" for name, error in wrong.items())
    return {"passed": not wrong, "errors": dict(errors), **({"reason": reason} if wrong else {})}


class Verdicts:
    """The verdicts on which implementations may be timed on which maps.

    Args:
        result: the result of the part "correct"; empty if it has not run.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        self._rows = result.get("rows", [])
        self._judged = {row["implementation"] for row in self._rows}
        self._ran = bool(result)

    def objection(self, name: str, size: str, dtype: str) -> str | None:
        """Return why an implementation is left out on a map of a size such as 14x14, None if it is not.

        On a map that was not checked, an implementation is left out if it was wrong on any map, but not if it only
        refused a call.
        """
        rows = [row for row in self._rows if row["implementation"] == name and row["dtype"] == dtype]
        here = [row for row in rows if row["map"] == size]
        blamed = [row for row in here or rows if not row["passed"] and (here or not row.get("refused"))]
        if blamed:
            return f"left out: {blamed[0]['map']} {dtype}: {blamed[0]['reason']}"
        if self._ran and not rows:
            return "left out: it was not checked"
        return None
