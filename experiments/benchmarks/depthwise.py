"""Time depthwise convolutions on this device: XLA's, and the sum of shifted maps that CPUs take.

    python -m experiments.benchmarks.depthwise [--rounds=5] [--output=FILE.json]

Prints, and stores in experiments/results/depthwise_*.json, milliseconds of the convolution alone and of its gradient by
map and kernel, by the shape of the map, the window and the stride; and of eight such layers in a loop, as in
PatchConvNet's trunk. Float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.ops.depthwise import depthwise_convolution
from experiments.benchmarks.results import file_here, flags, origin, store
from experiments.benchmarks.timing import Program, jax_program, median, take_turns

LAYERS = 8
CASES = {
    "PatchConvNet-S60's blocks, 224x224": ((4, 14, 14, 384), 3, 1, False),
    "PatchConvNet-S60's blocks, 224x224, in a loop": ((4, 14, 14, 384), 3, 1, True),
    "experiments/camvid, PatchConvNet, in a loop": ((8, 12, 15, 192), 3, 1, True),
    "MnasNet-A1's first, 3x3": ((4, 112, 112, 32), 3, 1, False),
    "MnasNet-A1's, 5x5, stride 2": ((4, 56, 56, 72), 5, 2, False),
    "MnasNet-A1's, 5x5": ((4, 28, 28, 120), 5, 1, False),
}


def convolution(inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> jax.Array:
    """Return XLA's depthwise convolution."""
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )


FORMS = {"convolution": convolution, "shifts": depthwise_convolution}


def programs(shape: tuple[int, ...], window: int, stride: int, loop: bool) -> dict[tuple[str, str], Program]:
    """Return the programs of both forms, by form and what they compute."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=shape), jnp.float32)
    size = (LAYERS,) * loop + (window, window, 1, shape[-1])
    kernels = jnp.asarray(rng.normal(size=size) / window, jnp.float32)
    padding = [(window // 2, window // 2)] * 2
    found = {}
    for name, form in FORMS.items():

        def layer(inputs: jax.Array, kernel: jax.Array, form: Any = form) -> jax.Array:
            return form(inputs, kernel, (stride, stride), padding)

        def network(inputs: jax.Array, kernels: jax.Array, layer: Any = layer) -> jax.Array:
            if not loop:
                return layer(inputs, kernels)
            return jax.lax.scan(lambda x, kernel: (x + layer(x, kernel), None), inputs, kernels)[0]

        def gradients(inputs: jax.Array, kernels: jax.Array, network: Any = network) -> Any:
            return jax.grad(lambda *both: (network(*both) ** 2).sum(), (0, 1))(inputs, kernels)

        for what, function in (("forward", network), ("gradients", gradients)):
            compiled = jax.jit(function).lower(inputs, kernels).compile()
            found[name, what] = jax_program(compiled, inputs, kernels)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = flags(__doc__, "")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for case, (shape, window, stride, loop) in CASES.items():
        times = take_turns(programs(shape, window, stride, loop), rounds=options.rounds, seconds=20)
        row: dict[str, Any] = {"case": case, "shape": shape, "window": window, "stride": stride, "loop": loop}
        row |= {f"{form}_{what}_ms": median(each) for (form, what), each in times.items()}
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    store(origin("depthwise") | {"dtype": "float32", "rows": rows}, options.output or file_here("depthwise"))


if __name__ == "__main__":
    main()
