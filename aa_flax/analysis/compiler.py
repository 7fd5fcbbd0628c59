"""The protocol of compilers for devices that are not present: `tpu_compiler` and `gpu_compiler` follow it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from jax.sharding import Mesh

Wanted = TypeVar("Wanted", contravariant=True)


class CompilerError(RuntimeError):
    """The compiler is missing or busy, or it refuses; the message is one line."""


class TargetError(ValueError):
    """No such slice or machine exists; the message is one line."""


@dataclass(frozen=True)
class DoesNotFit(Exception):
    """The compiler found no room for a program; `temporary_bytes` is per device, None where it does not say."""

    temporary_bytes: int | None


@runtime_checkable  # the shape checker of the tests asks
class Compiler(Protocol[Wanted]):
    """A module that compiles for slices or machines of one kind."""

    def packages(self) -> tuple[str, ...]:
        """Return the distributions whose versions counts depend on."""

    def prepare(self) -> None:
        """Set the environment and keep JAX on the CPU, before a JAX device is used; may raise CompilerError."""

    def mesh_of(self, wanted: Wanted) -> Mesh:
        """Return the mesh of all devices along one axis, "data".

        Raises:
            CompilerError: the compiler cannot be loaded or refuses.
            TargetError: the compiler does not know the slice or machine.
        """

    def devices_per_chip(self, mesh: Mesh) -> int:
        """Return how many devices share a chip."""

    def traced(self, wanted: Wanted) -> AbstractContextManager[None]:
        """Return a context in which JAX traces and lowers as on that slice or machine."""

    def compile_program(self, lowered: Any) -> Any:
        """Compile a lowered program for its devices and return it; may raise CompilerError or DoesNotFit."""

    def remarks(self) -> str:
        """Return what the counts leave out, in words for people; "" if nothing."""
