"""TPU slices by name, and the peak figures of a chip of each generation."""

import difflib
import math
import re
from dataclasses import dataclass

from aa_flax.analysis.compiler import TargetError


@dataclass(frozen=True)
class Chip:
    """Published peak figures of one chip, and the page on which Google publishes them.

    Where editions of a page differ (v4: 1200 or 1228 GB/s, v6e: 1600 or 1640) the higher figure is used, so that bounds
    on the step time remain bounds. `hbm_bytes` takes the published "GB" as 2**30 bytes, as the compiler does;
    `usable_bytes` is what the compiler's messages call available (libtpu 0.0.42.1; it has no such limit for v5p).
    `ici_bandwidth` is what all links of a chip send together: half of the published bidirectional figure.
    """

    generation: str
    cloud_name: str  # accelerator types are named by this and a number
    count_per_chip: int  # what that number counts for each chip: 1 chip, or 2 TensorCores
    flops: float  # bfloat16 operations per second
    hbm_bytes: int
    usable_bytes: int
    hbm_bandwidth: float  # bytes per second
    ici_bandwidth: float  # bytes per second
    dimensions: int  # how many the mesh of chips has
    longest: int  # longest side of that mesh, in chips
    source: str

    @property
    def name(self) -> str:
        """The name of the chip: its generation."""
        return self.generation

    @property
    def peaks(self) -> dict[str, float]:
        """Return operations per second by the type that is multiplied: only the bfloat16 figure is published."""
        return {"bfloat16": self.flops}

    @property
    def link_bandwidth(self) -> float:
        """The bytes per second to other chips."""
        return self.ici_bandwidth

    @property
    def memory_kind(self) -> str:
        """The kind of the chip's memory."""
        return "HBM"

    @property
    def share(self) -> str:
        """Return what `usable_bytes` are, in words that follow their number."""
        return "that programs may use of a chip"


_GIB = 2**30
_DOCS = "https://cloud.google.com/tpu/docs"

CHIPS = {
    chip.generation: chip
    for chip in (
        Chip("v4", "v4", 2, 275e12, 32 * _GIB, 123 * _GIB // 4, 1228e9, 300e9, 3, 16, f"{_DOCS}/v4"),
        Chip("v5e", "v5litepod", 1, 197e12, 16 * _GIB, 63 * _GIB // 4, 819e9, 200e9, 2, 16, f"{_DOCS}/v5e"),
        Chip("v5p", "v5p", 2, 459e12, 95 * _GIB, 95 * _GIB, 2765e9, 600e9, 3, 24, f"{_DOCS}/v5p"),
        Chip("v6e", "v6e", 1, 918e12, 32 * _GIB, 125 * _GIB // 4, 1640e9, 400e9, 2, 16, f"{_DOCS}/v6e"),
    )
}

_SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
}
"""The usual shape for each number of chips in Cloud's tables; other shapes can be named as topologies."""


@dataclass(frozen=True)
class Slice:
    """Chips of one generation in a mesh, such as v5e:4x4."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def topology(self) -> str:
        """The generation and shape, which is libtpu's name for the slice."""
        return f"{self.chip.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)

    @property
    def chips_per_host(self) -> tuple[int, int, int]:
        """Return the part of the mesh that one host holds: 2 by 2, or all of a smaller slice."""
        height, width = self.shape[:2]
        return min(height, 2), min(width, 2), 1

    @property
    def cloud_name(self) -> str | None:
        """Return the accelerator type to rent, such as v5litepod-16 or v4-8; None if Cloud has none."""
        name = f"{self.chip.cloud_name}-{self.chips * self.chip.count_per_chip}"
        return name if name in CLOUD_NAMES else None


CLOUD_NAMES = {
    f"{chip.cloud_name}-{count * chip.count_per_chip}": f"{chip.generation}:{shape}"
    for chip in CHIPS.values()
    for shape in _SHAPES[chip.dimensions]
    for count in [math.prod(map(int, shape.split("x")))]
}
"""Accelerator types of Cloud TPU, such as v5litepod-16 or v4-8, to topologies.

The number counts chips for v5e and v6e; for v4 and v5p it counts TensorCores, two for each chip.
"""


def find_slice(name: str) -> Slice:
    """Return the slice of a topology (`v5e:4x4`, `v4:2x2x1`) or of an accelerator type (`v5litepod-16`, `v4-8`).

    Raises:
        TargetError: the generation or accelerator type is unknown, or there is no slice of that shape.
    """
    topology = CLOUD_NAMES.get(re.sub(r"^v5e-", "v5litepod-", name), name)
    generation, colon, shape = topology.partition(":")
    if not colon:
        raise TargetError(f"topology {name!r} is not known{_nearest(name)}")
    if generation not in CHIPS:
        raise TargetError(f"topology {name!r} must be of one of {', '.join(CHIPS)}, such as v5e:2x2 or v4:2x2x1")
    chip = CHIPS[generation]
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.dimensions - 1), shape):
        examples = ", ".join(f"{generation}:{s}" for s in _SHAPES[chip.dimensions])
        raise TargetError(f"topology {name!r} must have {chip.dimensions} dimensions, such as {examples}")
    sides = tuple(map(int, shape.split("x")))
    if max(sides) > chip.longest:
        raise TargetError(f"topology {name!r}: a {generation} slice has at most {chip.longest} chips along a side")
    if chip.dimensions == 2 and any(side & (side - 1) for side in sides):
        raise TargetError(f"topology {name!r}: sides of a {generation} slice are 1, 2, 4, 8 or 16 chips")
    return Slice(chip, sides)


def _nearest(name: str) -> str:
    matches = difflib.get_close_matches(name, list(CLOUD_NAMES), n=3, cutoff=0.6)
    if matches:
        return f"; did you mean {' or '.join(map(repr, matches))}?"
    return "; expected a topology, such as v5e:4x4 or v4:2x2x1, or an accelerator type, such as v5litepod-16 or v4-8"
