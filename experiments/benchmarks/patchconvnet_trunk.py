"""Compilation time and memory that a loop over PatchConvNet's blocks saves: S120 for one TPU v5e, without such a chip.

    python -m experiments.benchmarks.patchconvnet_trunk                    (half an hour on two busy CPU cores)

Compiles the gradient of the loss of S120 for 32 images of 224×224 in bfloat16 with libtpu, three times: the trunk as a
loop, as a loop that keeps only each block's input for the gradient (the default), and block after block. Writes
experiments/results/patchconvnet_trunk.json. Memory is a count. Of the times, the CPU seconds of all threads together
depend least on other work of the machine.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from aa_flax.analysis import count
from aa_flax.models import create_model
from aa_flax.models.heads import pooled
from experiments.benchmarks import results

TARGET = "v5e:1x1"
BATCH, SIDE, NAME = 32, 224, "patchconvnet_s120"
# Whether the blocks run in a loop, and whether they are computed again for the gradient.
TRUNKS = {
    "loop": (True, False),
    "loop, rematerialized": (True, True),
    "one by one": (False, False),
}


def logits(model: Any, images: jax.Array, loop: bool) -> jax.Array:
    """Return the logits of the network in training; without the loop the blocks are called one after the other."""
    if loop:
        return model(images, train=True)
    x = model.stem(images)
    for i in range(model.trunk.depth):
        x = model.trunk.block(i)(x, train=True)
    return model.head(pooled(model.pooling, x))


def counted(loop: bool, rematerialize: bool) -> dict[str, Any]:
    """Return seconds of compilation and the compiler's counts of one gradient; nothing is allocated."""
    model = nnx.eval_shape(
        lambda: create_model(NAME, rematerialize=rematerialize, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.bfloat16)

    def loss(params: Any, images: jax.Array) -> jax.Array:
        wide = logits(nnx.merge(graph, params, copy=True), images, loop).astype(jnp.float32)
        return jnp.mean(jax.nn.logsumexp(wide, -1) - wide[:, 0])

    found = count(TARGET, jax.grad(loss), nnx.to_pure_dict(state), images)
    return {
        "trace_cpu_seconds": round(found.trace_cpu_seconds, 1),
        "compile_cpu_seconds": round(found.compile_cpu_seconds, 1),
        "compile_seconds": round(found.compile_seconds, 1),
        "temporary_bytes": found.temporary_bytes,
        "text_bytes": len(found.compiled.as_text()),
    }


def main() -> None:
    """Compile each form of the trunk, and store the counts."""
    arguments = results.flags(__doc__, "patchconvnet_trunk.json").parse_args()
    rows = []
    for trunk, (loop, rematerialize) in TRUNKS.items():
        rows.append({"trunk": trunk, **counted(loop, rematerialize)})
        print(rows[-1], flush=True)
    setting = {
        "model": NAME,
        "batch": BATCH,
        "image_size": SIDE,
        "dtype": "bfloat16",
        "program": "gradient of the loss, forward and backward",
    }
    results.store({**results.origin("patchconvnet_trunk", target=TARGET), **setting, "rows": rows}, arguments.output)


if __name__ == "__main__":
    main()
