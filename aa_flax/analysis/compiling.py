"""A function compiled for one chip that need not be there, and counted: for experiments with single layers.

counts = count_on("h100:1", jax.grad(loss), jax.ShapeDtypeStruct((256, 14, 14, 320), jnp.bfloat16))
print(counts.bytes_moved, counts.calls, counts.launches[:10])
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from aa_flax.analysis.counts import Counts, count_program
from aa_flax.analysis.estimates import estimated_flops
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.targets import compiler_of, find_target


def compile_on(target: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compile a function for one chip; before the first use of a JAX device.

    Args:
        target: "h100:1", "v5e:1x1", ...
        function: of trees of arrays; jitted here.
        arguments: trees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        What `jax.stages.Lowered.compile` returns.

    Raises:
        TargetError, CompilerError, DoesNotFit: as `aa_flax.analysis.compiler` has them.
    """
    return _compile(target, function, arguments)[0]


def count_on(target: str, function: Callable[..., Any], *arguments: Any) -> Counts:
    """The same, counted."""
    compiled, estimated = _compile(target, function, arguments)
    return count_program(compiled, Program(compiled.as_text()), 1, 1, estimated)


def _compile(target: str, function: Callable[..., Any], arguments: Any) -> tuple[Any, int]:
    """The program, and the FLOPs of its Pallas kernels as their authors say."""
    wanted = find_target(target)
    compiler = compiler_of(wanted)
    compiler.prepare()
    mesh = compiler.mesh_of(wanted)
    everywhere = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), arguments)
    with jax.set_mesh(mesh), compiler.traced(wanted):
        traced = jax.jit(function).trace(*shapes)
        return compiler.compile_program(traced.lower()), estimated_flops(traced)
