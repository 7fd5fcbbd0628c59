"""Compute one implementation's results of all checks, for `correct.py`, which compares them.

    python -m experiments.benchmarks.gpu.trial NAME FOLDER [--rehearse]

Writes an npz file and a line of JSON for each check: its number, whether a second run gave the same bits, what "auto"
chose; or the reason why the implementation refuses. Then it writes a line for each check of a whole layer, with its
verdict.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.json_values import to_json
from aa_flax.ops import relative_attention_2d
from aa_flax.ops.choice import choose
from experiments.benchmarks.candidates import is_refusal, reason
from experiments.benchmarks.gpu import layers
from experiments.benchmarks.gpu.checks import KEY_DEPTH, Check
from experiments.benchmarks.gpu.correct import all_checks

_THREADS = 4  # that compile at once, in each of as many processes as implementations


def main() -> None:
    """Compile and run all checks of an implementation, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    every = all_checks(arguments.rehearse)
    with ThreadPoolExecutor(_THREADS) as pool:
        compiled = [pool.submit(_compiled, arguments.name, check) for check in every]
        whole = [pool.submit(layers.row, arguments.name, check) for check in layers.checks(arguments.rehearse)]
        for number, check in enumerate(every):
            answer: dict[str, Any] = {"check": number, "device": jax.devices()[0].device_kind}
            try:
                program = compiled[number].result()
                inputs = arrays(check)
                first, second = ([np.asarray(x, np.float32) for x in program(*inputs)] for _ in range(2))
                np.savez(arguments.folder / f"{number}.npz", *first)
                answer["repeats"] = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
                if arguments.name == "auto":
                    answer["chosen"] = chosen(check)
            except Exception as error:
                answer["refused" if is_refusal(error) else "failed"] = reason(error)
            print(to_json(answer), flush=True)
        for row in whole:
            print(to_json({"row": row.result()}), flush=True)


def arrays(check: Check) -> list[jax.Array]:
    """Return the inputs of a check on the device."""
    return [jnp.asarray(array, check.dtype) for array in check.inputs()]


def function(name: str, precision: str) -> Callable[..., Any]:
    """Return the function (*inputs, cotangent) -> value and gradients of an implementation at a matrix precision."""

    def results(*arrays: jax.Array) -> list[jax.Array]:
        *inputs, cotangent = arrays
        with jax.default_matmul_precision(None if precision == "default" else precision):
            output, pullback = jax.vjp(lambda *inputs: relative_attention_2d(*inputs, implementation=name), *inputs)
            return [output, *pullback(cotangent)]

    return results


def chosen(check: Check) -> str:
    """Return the implementation that "auto" chooses for a check."""
    place = (check.height, check.width, check.heads, KEY_DEPTH, check.value_depth)
    return choose(check.dtype, *place, True, batch=check.batch)


def _compiled(name: str, check: Check) -> Any:
    return jax.jit(function(name, check.precision)).lower(*arrays(check)).compile()


if __name__ == "__main__":
    main()
