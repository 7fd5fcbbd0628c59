"""Choice of the forms of RoIAlign for "auto"."""

from collections.abc import Sequence
from typing import Any

from jax.export import is_symbolic_dim

IMPLEMENTATIONS = ("auto", "gather", "product")
_USUAL_SAMPLES = 4
"""Along one side of a bin where their number depends on the box: sides of 14 to 28 locations have 2 to 4 in 7 bins."""
_PRODUCTS = 7
"""How many multiplications and additions of a product take as long as adding one number to a place."""


def choose_forms(
    implementation: str,
    sides: Sequence[tuple[Any, Any]],
    output_size: tuple[int, int],
    sampling_ratio: int,
    most_samples: int,
) -> tuple[str, str]:
    """Return the forms, "gather" or "product", of the bins and of their gradients by the maps.

    With "auto", bins are gathered, which was faster on every shape on two cores of a CPU
    (experiments/benchmarks/roi_align.py); gradients are products where the maps are so small that less work has to be
    done, as those of gathers are slow there: they are added one by one.

    Neither was timed on a GPU or TPU. Counted for an H100 and a TPU v5e (experiments/benchmarks/roi_align_counts.py),
    gathers move fewer bytes on the pyramid of 800×1344 photographs, for bins and for gradients.

    Args:
        sides: height and width of each map.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {', '.join(map(repr, IMPLEMENTATIONS))}, got {implementation!r}"
        )
    if implementation != "auto":
        return implementation, implementation
    if any(is_symbolic_dim(side) for pair in sides for side in pair):
        return "gather", "gather"
    samples = sampling_ratio or min(_USUAL_SAMPLES, most_samples)
    added = output_size[1] * (2 * samples) ** 2  # for each row of bins of a box, and each channel
    multiplied = sum(height * width + width * output_size[1] for height, width in sides)
    return "gather", "product" if multiplied < _PRODUCTS * added else "gather"
