"""Host time of a training step: the cost of the loop besides the device's, with as many arrays as ResNet-50's state.

    python -m experiments.benchmarks.loop

The step is that of a network with ResNet-50's tree of parameters, statistics, momentum and averages, each array of two
numbers; batches are placed as in runs. Beside it runs a program that only passes the same state on, so that the device
has nothing to do: a CPU computes small programs in the thread that calls them, so the time of the step includes its
computation. Both are timed with averages of the parameters and without. Writes
experiments/results/loop_cpu_jax*.json. The goal is under 2 ms on one device.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.json_values import to_json
from aa_flax.models import create_model
from aa_flax.tasks import make_task
from aa_flax.training import functional, resolve
from aa_flax.training.optimizers import optimizer
from aa_flax.training.sharding import Layout, place_batch
from aa_flax.training.state import create_state
from aa_flax.training.step import make_train_step
from experiments.benchmarks import results
from experiments.benchmarks.timing import median


def main() -> None:
    """Time both programs, with averages and without, and store the times."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--steps", type=int, default=200, help="in a round")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    layout = Layout.of(resolve({}), jax.devices()[:1])
    rows = [timed(layout, ema, arguments.steps, arguments.rounds) for ema in (False, True)]
    file = arguments.output or results.file_here("loop")
    results.store({**results.origin("loop"), "rows": rows}, file)


def timed(layout: Layout, ema: bool, steps: int, rounds: int) -> dict[str, Any]:
    """Return the median milliseconds of both programs, which take turns."""
    step, state, batch = prepare(layout, ema)
    passed_on = jax.jit(lambda state, batch: state, donate_argnums=0, keep_unused=True)
    times: dict[str, list[float]] = {"step_ms": [], "passed_on_ms": []}
    with jax.set_mesh(layout.mesh):
        for turn in range(rounds + 1):
            for name, run in (("step_ms", step), ("passed_on_ms", passed_on)):
                state = jax.block_until_ready(run(state, place_batch(batch, layout)))
                started = time.perf_counter()
                for _ in range(steps):
                    state = run(state, place_batch(batch, layout))
                if turn:  # the first round warms up
                    times[name].append(1e3 * (time.perf_counter() - started) / steps)
    row = {
        "averages": ema,
        "arrays": len(jax.tree.leaves(state)),
        **{name: median(values) for name, values in times.items()},
    }
    print(to_json(row), flush=True)
    return row


def prepare(layout: Layout, ema: bool) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return a step that uses every array of ResNet-50's state, each made small, that state, and a batch."""
    config = resolve({"optimizer": {"ema_decay": 0.9 if ema else 0.0}, "data": {"crop": "none", "flip": False}})
    model = nnx.eval_shape(lambda: create_model("resnet50", rngs=nnx.Rngs(0)))
    _, params, batch_stats = functional(model)
    params, batch_stats = jax.tree.map(lambda leaf: np.ones(2, leaf.dtype), (params, batch_stats))

    def apply(params: Any, batch_stats: Any, images: Any, *, train: bool = False, rngs: Any = None) -> Any:
        del train, rngs
        total = sum(leaf.sum() for leaf in jax.tree.leaves(params))
        logits = images.mean((1, 2))[:, :2] * total
        return logits, jax.tree.map(lambda leaf: 0.9 * leaf + 0.1, batch_stats)

    prepared = Preprocessing((4, 4), 3, (0.5,) * 3, (0.25,) * 3, ("a", "b"), "float32", "")
    chain = optimizer(config.optimizer, 10**6, 10**3)
    task = make_task(config, prepared)
    state = layout.place(create_state(params, batch_stats, chain, ema, task.metrics))

    def losses(params: Any, batch_stats: Any, images: Any, targets: Any, *, train: bool, rngs: Any) -> Any:
        logits, batch_stats = apply(params, batch_stats, images, train=train)
        return task.losses(lambda *_, **__: logits, images, targets, train=train, rngs=rngs), batch_stats

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 4, 4, 3), np.uint8),
        "label": rng.integers(0, 2, 8).astype(np.int32),
    }
    with jax.set_mesh(layout.mesh):
        step = make_train_step(task, losses, chain, config, layout)
        step = jax.jit(step, donate_argnums=0, out_shardings=layout.of_state(state))
        state = step(state, place_batch(batch, layout))
    assert np.isfinite(jnp.asarray(state.window["loss"]))
    return step, state, batch


if __name__ == "__main__":
    main()
