"""The setting that every part is given."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from experiments.benchmarks.gpu.record import Record

Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """The setting of one part.

    Attributes:
        out: the folder of results.
        seconds: the time after which the part is stopped.
        command: the command that the results name.
        commit: the commit of the code, for a machine without Git; "" asks Git.
        rehearse: whether to run on the CPU, with small shapes.
        data: the folder with images, None for the images of the library.
    """

    out: Path
    seconds: float
    command: str
    commit: str = ""
    rehearse: bool = False
    data: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def left(self, reserve: float = 5.0) -> float:
        """Return the seconds that are left to the part, less a reserve for writing and closing."""
        return self.seconds - reserve - (time.monotonic() - self.started)

    def require_gpu(self) -> None:
        """Exit if JAX finds no GPU, unless this is a rehearsal; it starts JAX's devices."""
        import jax

        if not self.rehearse and jax.default_backend() != "gpu":
            raise SystemExit(f"no GPU: JAX uses {jax.devices()[0].device_kind}; --rehearse tries the parts on a CPU")

    def pick(self, real: Value, tiny: Value) -> Value:
        """Return the value for a GPU, or that for a rehearsal."""
        return tiny if self.rehearse else real

    def record(self, file: str, section: str = "", **more: Any) -> Record:
        """Return the record of the part, with the origin of its numbers; `more` adds to that or replaces it."""
        from aa_flax.analysis.provenance import provenance

        record = Record(self.out / file, section)
        origin = provenance(self.command)
        record.put(**(origin | ({"commit": self.commit} if self.commit else {})))
        record.put(**({"rehearsal": True} if self.rehearse else {}), **more)
        return record
