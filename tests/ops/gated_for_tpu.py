"""Compile an AW-convolution and a plain one with gradients for four TPU chips; print the figures as JSON.

Run by test_gated_tpu.py in a process of its own, because libtpu serves one process at a time.
"""

import json

from aa_flax.analysis.tpu_compiler import prepare

prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from aa_flax.analysis.slices import find_slice  # noqa: E402
from aa_flax.analysis.tpu_compiler import mesh_of  # noqa: E402
from aa_flax.layers import AWConv2D  # noqa: E402

MESH = mesh_of(find_slice("v5e:2x2"))


def found(layer):
    """Return figures of the compiled layer for 16 maps of 14×14 with 128 channels on each chip."""
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def placed(leaf, spec):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(MESH, spec))

    params, rest = (jax.tree.map(lambda leaf: placed(leaf, PartitionSpec()), tree) for tree in (params, rest))
    x = placed(jax.ShapeDtypeStruct((64, 14, 14, 128), jnp.bfloat16), PartitionSpec("data"))

    def both(params, rest, x, dy):
        y, pullback = jax.vjp(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), params, x)
        return y, pullback(dy)

    with jax.set_mesh(MESH):
        program = jax.jit(both).lower(params, rest, x, x).compile()
    text = program.as_text()
    return {
        "temporary": program.memory_analysis().temp_size_in_bytes,
        "moved": program.cost_analysis()["bytes accessed"],
        "gathers": text.count("all-gather"),
        "permutations": text.count("collective-permute"),
    }


if __name__ == "__main__":
    bfloat16 = dict(dtype=jnp.bfloat16)

    def plain():
        padding = ((1, 1), (1, 1))
        return nnx.Conv(128, 128, (3, 3), padding=padding, use_bias=False, **bfloat16, rngs=nnx.Rngs(0))

    weighted = nnx.eval_shape(lambda: AWConv2D(128, 128, 3, **bfloat16, rngs=nnx.Rngs(0)))
    print(json.dumps({"weighted": found(weighted), "plain": found(nnx.eval_shape(plain))}))
