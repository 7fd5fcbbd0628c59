"""What every part is told."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from experiments.benchmarks.gpu.record import Record

Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """One part's orders.

    Attributes:
        out: the folder of results.
        seconds: after which the part is stopped.
        command: that the results are to name.
        commit: of the code, where the machine has no Git to ask; "" asks it.
        rehearse: on the CPU, with small shapes.
        data: the folder with images, None for those of the library.
    """

    out: Path
    seconds: float
    command: str
    commit: str = ""
    rehearse: bool = False
    data: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def left(self, reserve: float = 5.0) -> float:
        """Seconds that are left to the part, less a reserve for writing and closing."""
        return self.seconds - reserve - (time.monotonic() - self.started)

    def require_gpu(self) -> None:
        """Exit where JAX sees none, unless this is the rehearsal. Starts JAX's devices."""
        import jax

        if not self.rehearse and jax.default_backend() != "gpu":
            raise SystemExit(f"no GPU: JAX uses {jax.devices()[0].device_kind}; --rehearse tries the parts on a CPU")

    def pick(self, real: Value, tiny: Value) -> Value:
        """The value for a GPU, or that of the rehearsal."""
        return tiny if self.rehearse else real

    def record(self, file: str, section: str = "", **more: Any) -> Record:
        """The part's file, begun with where its numbers come from; `more` replaces some of that."""
        from aa_flax.analysis.provenance import provenance

        record = Record(self.out / file, section)
        origin = provenance(self.command)
        record.put(**(origin | ({"commit": self.commit} if self.commit else {})))
        record.put(**({"rehearsal": True} if self.rehearse else {}), **more)
        return record
