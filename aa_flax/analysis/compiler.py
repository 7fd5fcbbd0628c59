"""What a plan asks of a compiler for devices that are not there: `tpu_compiler` and `gpu_compiler` are the two."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from jax.sharding import Mesh

Wanted = TypeVar("Wanted", contravariant=True)


class CompilerError(RuntimeError):
    """The compiler is missing, busy or refuses; the message is one line."""


class TargetError(ValueError):
    """A slice or a machine that does not exist; the message is one line."""


@dataclass(frozen=True)
class DoesNotFit(Exception):
    """The compiler's own verdict; bytes of temporary memory per device, None where it does not say."""

    temporary_bytes: int | None


@runtime_checkable  # the shape checker of the tests asks
class Compiler(Protocol[Wanted]):
    """A module that compiles for slices or machines of one kind."""

    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions belong to a count."""

    def prepare(self) -> None:
        """Set the environment and keep JAX on the CPU; before the first use of a JAX device. CompilerError."""

    def mesh_of(self, wanted: Wanted) -> Mesh:
        """All devices along one axis, "data". CompilerError, or TargetError where the compiler knows no such thing."""

    def devices_per_chip(self, mesh: Mesh) -> int:
        """How many devices share a chip."""

    def traced(self, wanted: Wanted) -> AbstractContextManager[None]:
        """While open, what JAX asks of a device when it traces and lowers is answered for that machine."""

    def compile_program(self, lowered: Any) -> Any:
        """A lowered program compiled for its devices. CompilerError, DoesNotFit."""

    def remarks(self) -> str:
        """What its counts leave out, for people; "" if nothing."""
