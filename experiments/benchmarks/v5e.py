"""Programs compiled for one TPU v5e by libtpu, without a TPU, and what the compiler counts in them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.analysis import tpu_compiler
from aa_flax.analysis.compiler import DoesNotFit
from aa_flax.analysis.counts import count_program
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.slices import find_slice


def mesh() -> Mesh:
    """One v5e chip along an axis "data"; before the first use of a JAX device.

    Raises:
        aa_flax.analysis.compiler.CompilerError: libtpu is missing, or another process has it.
    """
    tpu_compiler.prepare()
    return tpu_compiler.mesh_of(find_slice("v5e:1x1"))


def count(function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], dtype: Any, mesh: Mesh) -> dict[str, Any]:
    """Compile `function` of arrays of one dtype; the first one's leading axis is the batch.

    Returns:
        temporary_bytes: HBM beside arguments and results; with gradients this holds what the forward pass keeps. The
            compiler puts arrays into the chip's 128 MiB of VMEM instead while they fit,
        temporary_bytes_all_in_hbm: which it was forbidden here.
        fits: whether HBM holds the program; if not, only `temporary_bytes` is given, as the compiler's message has it.
        bytes_moved: as the compiler counts for its own operations, and operands and results, as they lie in memory, for
            custom calls; to and from VMEM too.
        hbm_bytes: of these, summed over the program's text, what is read from and written to HBM.
        custom_call_bytes: operands and results of custom calls, as they lie in memory.
        custom_call_estimate: what the kernels' author says, which the compiler takes over as it is.
        flops: as the compiler counts them; kernels by their author's estimate.
    """
    arguments = [
        jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec() if i else PartitionSpec("data"))
        )
        for i, shape in enumerate(shapes)
    ]
    with jax.set_mesh(mesh):
        lowered = jax.jit(function).lower(*arguments)
    try:
        compiled = tpu_compiler.compile_program(lowered)
    except DoesNotFit as verdict:
        return {"fits": False, "temporary_bytes": verdict.temporary_bytes}
    in_hbm: Any = lowered.compile(compiler_options={"xla_msa_enable": "false"})
    counts = count_program(compiled, Program(compiled.as_text()), devices=1, per_chip=1)
    return {
        "fits": True,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "temporary_bytes_all_in_hbm": in_hbm.memory_analysis().temp_size_in_bytes,
        "bytes_moved": counts.bytes_moved,
        "hbm_bytes": counts.hbm_bytes,
        "custom_call_bytes": sum(call.bytes for call in counts.kernels),
        "custom_call_estimate": sum(call.estimated_bytes for call in counts.kernels),
        "flops": counts.flops,
    }
