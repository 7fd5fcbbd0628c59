"""Counting what a function does on a chip that need not be present: bytes moved, operations, memory, kernels.

counted = count("h100:1", jax.grad(loss), jax.ShapeDtypeStruct((256, 14, 14, 320), jnp.bfloat16))
print(counted.temporary_bytes, counted.counts.bytes_moved, counted.counts.launches[:10])
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.analysis.compiler import DoesNotFit
from aa_flax.analysis.counts import Counts, count_program
from aa_flax.analysis.estimates import estimated_flops
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.targets import Target, compiler_of, find_target


@dataclass(frozen=True)
class Counted:
    """A function compiled for one target; bytes are those of one device."""

    target: Target
    lowered: Any  # jax.stages.Lowered
    compiled: Any  # jax.stages.Compiled, None where the program does not fit into the memory
    temporary_bytes: int | None  # besides arguments and results; None where the compiler does not say
    trace_cpu_seconds: float  # processor time of all threads together
    compile_cpu_seconds: float
    compile_seconds: float
    _estimated_flops: int = dataclasses.field(repr=False)
    _mesh: Mesh = dataclasses.field(repr=False)

    @property
    def fits(self) -> bool:
        """Whether the compiler found room for the program in the memory of a TPU; for GPUs it does not ask."""
        return self.compiled is not None

    @functools.cached_property
    def counts(self) -> Counts:
        """Return what one chip does in one call.

        Raises:
            DoesNotFit: the program was not compiled.
        """
        if self.compiled is None:
            raise DoesNotFit(self.temporary_bytes)
        per_chip = compiler_of(self.target).devices_per_chip(self._mesh)
        text = Program(self.compiled.as_text())
        return count_program(self.compiled, text, self._mesh.devices.size, per_chip, self._estimated_flops)


def count(
    target: str, function: Callable[..., Any], *arguments: Any, specs: Sequence[PartitionSpec] | None = None
) -> Counted:
    """Compile a function for a target and return what can be counted of it, without running anything.

    It must be called before the first use of a JAX device.

    Args:
        target: "h100:1", "v5e:1x1", "v5e:2x2", ...
        function: a function of trees of arrays; it is jitted here.
        arguments: trees of arrays or of `jax.ShapeDtypeStruct`.
        specs: how each argument is split over the target's devices, the axis "data"; None: each device has it whole.

    Raises:
        TargetError, CompilerError: see `aa_flax.analysis.compiler`.
        ValueError: the numbers of specs and of arguments differ.
    """
    specs = [PartitionSpec()] * len(arguments) if specs is None else specs
    if len(specs) != len(arguments):
        raise ValueError(f"specs must be one for each of the {len(arguments)} arguments, got {len(specs)}")
    wanted = find_target(target)
    compiler = compiler_of(wanted)
    compiler.prepare()
    mesh = _mesh_of(target)

    def placed(argument: Any, spec: PartitionSpec) -> Any:
        where = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), argument)

    shapes = [placed(argument, spec) for argument, spec in zip(arguments, specs, strict=True)]
    started = time.process_time()
    with jax.set_mesh(mesh), compiler.traced(wanted):
        traced = jax.jit(function).trace(*shapes)
        lowered = traced.lower()
        traced_at = time.process_time(), time.monotonic()
        compiled, temporary = None, None
        try:
            compiled = compiler.compile_program(lowered)
        except DoesNotFit as verdict:
            temporary = verdict.temporary_bytes
        else:
            temporary = compiled.memory_analysis().temp_size_in_bytes
    return Counted(
        target=wanted,
        lowered=lowered,
        compiled=compiled,
        temporary_bytes=temporary,
        trace_cpu_seconds=traced_at[0] - started,
        compile_cpu_seconds=time.process_time() - traced_at[0],
        compile_seconds=time.monotonic() - traced_at[1],
        _estimated_flops=estimated_flops(traced),
        _mesh=mesh,
    )


@functools.cache
def _mesh_of(target: str) -> Mesh:
    """Return the mesh of a target, the same one each time."""
    wanted = find_target(target)
    return compiler_of(wanted).mesh_of(wanted)
