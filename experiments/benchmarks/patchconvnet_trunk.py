"""What stacking PatchConvNet's blocks in one loop saves: compilation, and memory, of S120 on one TPU v5e, without one.

    python experiments/benchmarks/patchconvnet_trunk.py                    (half an hour on two busy CPU cores)

Compiles the gradient of the loss of S120 for 32 images of 224×224 in bfloat16 with libtpu, three times: the trunk as a
loop, as a loop that keeps only each block's input for the gradient (the default), and block after block. Writes
experiments/results/patchconvnet_trunk.json. Memory is a count; of the times the CPU seconds, of all threads
together, depend least on what else the machine does.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from aa_flax.analysis import tpu_compiler  # noqa: E402
from aa_flax.analysis.provenance import package_version, provenance  # noqa: E402
from aa_flax.analysis.slices import find_slice  # noqa: E402
from aa_flax.models import create_model  # noqa: E402
from aa_flax.models.heads import pooled  # noqa: E402

BATCH, SIDE, NAME = 32, 224, "patchconvnet_s120"
# Whether the blocks run in a loop, and whether that computes them again for the gradient.
TRUNKS = {
    "loop": (True, False),
    "loop, rematerialized": (True, True),
    "one by one": (False, False),
}


def logits(model: Any, images: jax.Array, loop: bool) -> jax.Array:
    """Of the network in training; without the loop the blocks are called in a row."""
    if loop:
        return model(images, train=True)
    x = model.stem(images)
    for i in range(model.trunk.depth):
        x = model.trunk.block(i)(x, train=True)
    return model.head(pooled(model.pooling, x))


def compiled(loop: bool, rematerialize: bool, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Seconds, and what the compiler counts, of one gradient; nothing is allocated."""
    model = nnx.eval_shape(
        lambda: create_model(NAME, rematerialize=rematerialize, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(model)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), nnx.to_pure_dict(state)
    )
    images = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.bfloat16, sharding=everywhere)

    def loss(params: Any, images: jax.Array) -> jax.Array:
        wide = logits(nnx.merge(graph, params, copy=True), images, loop).astype(jnp.float32)
        return jnp.mean(jax.nn.logsumexp(wide, -1) - wide[:, 0])

    seconds = {}
    with jax.set_mesh(mesh):
        start = time.perf_counter(), time.process_time()
        lowered = jax.jit(jax.grad(loss)).lower(params, images)
        seconds["trace_cpu_seconds"] = round(time.process_time() - start[1], 1)
        start = time.perf_counter(), time.process_time()
        program = tpu_compiler.compile_program(lowered)
        seconds["compile_cpu_seconds"] = round(time.process_time() - start[1], 1)
        seconds["compile_seconds"] = round(time.perf_counter() - start[0], 1)
    return {
        **seconds,
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "text_bytes": len(program.as_text()),
    }


def main() -> None:
    """Compile each form of the trunk, and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=_ROOT / "experiments" / "results" / "patchconvnet_trunk.json", help="JSON file"
    )
    path = parser.parse_args().output
    tpu_compiler.prepare()
    mesh = tpu_compiler.mesh_of(find_slice("v5e:1x1"))
    rows = []
    for trunk, (loop, rematerialize) in TRUNKS.items():
        rows.append({"trunk": trunk, **compiled(loop, rematerialize, mesh)})
        print(rows[-1], flush=True)
    result = {
        **provenance("python experiments/benchmarks/patchconvnet_trunk.py"),
        "model": NAME,
        "batch": BATCH,
        "image_size": SIDE,
        "dtype": "bfloat16",
        "program": "gradient of the loss, forward and backward",
        "rows": rows,
    }
    result["device"] = "TPU v5e, one chip, compiled for on a CPU"
    result["versions"]["libtpu"] = package_version("libtpu")
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
