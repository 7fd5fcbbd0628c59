"""Compile attention for an absent TPU and print the compiler's figures as one line of JSON for each program.

Run by test_tpu_compilation.py in a process of its own, because libtpu serves one process at a time.
"""

import json
import sys

from aa_flax.analysis.tpu_compiler import prepare

prepare()

import jax  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from aa_flax.analysis.slices import find_slice  # noqa: E402
from aa_flax.analysis.tpu_compiler import mesh_of  # noqa: E402
from aa_flax.ops import attention_branch  # noqa: E402

SLICE = mesh_of(find_slice("v5e:2x2"))
ALONE = Mesh(SLICE.devices.flat[:1], ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def compiled(batch, h, w, heads, dk, dv, channels, *, dtype="bfloat16", gradients=True, mesh=ALONE, positions=True):
    """Return figures of the compiled attention branch with its projections, forward or forward and backward."""
    depths, value = heads * (2 * dk + dv), heads * dv
    parameters = [(channels, depths), (depths,), (value, value), (value,)]
    parameters += [(2 * h - 1, dk), (2 * w - 1, dk)] if positions else []

    def placed(shape, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def forward(x, *arrays):
        arrays = arrays if positions else (*arrays, None, None)
        return attention_branch(x, *arrays, num_heads=heads, implementation="pallas_tpu")

    def backward(dy, *arrays):
        y, pullback = jax.vjp(forward, *arrays)
        return y, pullback(dy)

    arrays = [placed((batch, h, w, channels), PartitionSpec("data"))]
    arrays += [placed(shape, PartitionSpec()) for shape in parameters]
    with jax.set_mesh(mesh):
        if gradients:
            dy = placed((batch, h, w, value), PartitionSpec("data"))
            program = jax.jit(backward).lower(dy, *arrays).compile()
        else:
            program = jax.jit(forward).lower(*arrays).compile()
    text = program.as_text()
    return {
        "temporary": program.memory_analysis().temp_size_in_bytes,
        "moved": program.cost_analysis()["bytes accessed"],
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "gathers": text.count("all-gather"),
        "reduces": text.count("all-reduce("),
    }


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        sharded = case.pop("sharded", False)
        print(json.dumps(compiled(**case, mesh=SLICE if sharded else ALONE)), flush=True)
