"""A program beside the network that it was made of: both are run, and their outputs compared."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from aa_flax.inference.export.differences import differences
from aa_flax.inference.export.served import Program, Served
from aa_flax.inference.export.stablehlo import device_of, form_for, from_stablehlo

Arrays = tuple[np.ndarray, ...]
LIMIT = 1e-5
"""The largest difference that agrees, relative to the largest number of an output."""
LIMIT_OF_BFLOAT16 = 4e-2
"""The same for networks that compute in bfloat16: ten units in the last place, as two forms of a layer round apart."""
LIMIT_ON_ACCELERATORS = 1e-2
"""The least limit on TPUs and GPUs, whose matrix units by default round the factors of float32 products."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was found on one platform.

    Attributes:
        platform: that the program is for, or what ran it.
        run: whether the program ran there; otherwise its form for that platform was computed on the CPU.
        images: the sizes of the batches that were compared; () is none.
        differences: the largest of each output.
        limit: the largest that agrees.
        objects: how many the network found, of a detector.
    """

    platform: str
    run: bool
    images: tuple[int, ...] = ()
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    limit: float = 0.0
    objects: int | None = None

    @property
    def agrees(self) -> bool:
        """Return whether no output differs by more than the limit; True where nothing could be compared."""
        return all(far <= self.limit for far in self.differences.values())

    def __str__(self) -> str:
        if not self.images:
            return f"{self.platform}: not run, as there is none here; its values were compared with nothing"
        far = max(self.differences.values(), key=lambda far: math.inf if math.isnan(far) else far)
        how = "is the network's" if self.agrees else "is not the network's"
        what = f"output {how}, to {far:.1e} in batches of {', '.join(map(str, self.images))}"
        if self.objects is not None:
            what += (
                f", with {self.objects} objects" if self.objects else ", in which nothing was found: try photographs"
            )
        if self.run:
            return f"{self.platform}: {what}"
        return f"{self.platform}: not run, as there is none here; the form for it, computed on this CPU: {what}"

    def as_json(self) -> dict[str, Any]:
        """Return it as a card has it."""
        said = dataclasses.asdict(self)
        return {name: value for name, value in said.items() if value is not None}


def comparison(
    served: Served, program: Program, given: Sequence[Arrays], platform: str, *, run: bool = True
) -> Comparison:
    """Return how far a program is from the network, for batches of inputs, where JAX's default device runs both."""
    network, largest = jax.jit(served), dict[str, float]()
    objects = None
    for arrays in given:
        ours = network(served.variables, *arrays)
        for name, far in differences(ours, program(*arrays)).items():
            largest[name] = far if math.isnan(far) else max(far, largest.get(name, 0.0))
        if "valid" in ours:
            objects = (objects or 0) + int(np.asarray(ours["valid"]).sum())
    here = platform if run and platform in ("cuda", "tpu") else "cpu"
    least = LIMIT_OF_BFLOAT16 if served.preprocessing.dtype == "bfloat16" else LIMIT
    allowed = least if here == "cpu" else max(least, LIMIT_ON_ACCELERATORS)
    images = tuple(dict.fromkeys(len(arrays[0]) for arrays in given))
    return Comparison(platform, run, images, largest, allowed, objects)


def on_platforms(
    served: Served, content: bytes, given: Sequence[Arrays], platforms: Sequence[str], kernels: bool
) -> list[Comparison]:
    """Return what is found on each platform of a StableHLO program.

    Where this machine has none of a platform, the form of the network for it is computed on the CPU, on the first
    batch; kernels cannot be.
    """
    program, found = from_stablehlo(content), []
    for platform in platforms:
        if (device := device_of(platform)) is not None:
            with jax.default_device(device):
                found.append(comparison(served, program, given, platform))
        elif kernels:
            found.append(Comparison(platform, False))
        else:
            form = jax.jit(form_for(served, platform))
            with jax.default_device(device_of("cpu")):
                alone = comparison(
                    served, lambda *arrays, form=form: form(served.variables, *arrays), given[:1], platform, run=False
                )
            found.append(alone)
    return found
