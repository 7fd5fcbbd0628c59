"""Replaying a step of a run, to see what went wrong in it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aa_flax.data.recorded import found_again
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.training.program import Program
from aa_flax.training.resident import taken
from aa_flax.training.setup import Setup, set_up
from aa_flax.training.sharding import on_these_devices
from aa_flax.training.state import TrainState
from aa_flax.training.step import step_keys


@dataclass(frozen=True)
class Replay:
    """What a replayed step computed. Names are dotted paths of parameters; examples keep the order of the batch."""

    step: int
    replayed_from: int  # the checkpoint's step; 0 is the start of the run
    loss: float
    bad_gradients: list[str]  # names of those with an infinite or NaN entry
    bad_parameters: list[str]
    largest_parameter: float
    gradient_norm: float
    indices: list[int]  # of the examples in the training split
    titles: list[str]  # of each example, by its targets
    losses: list[float]  # of each example, in training mode
    images: np.ndarray  # uint8 [b, h, w, c], as they came from the host

    @property
    def bad_examples(self) -> list[int]:
        """The positions in the batch whose loss is infinite or NaN."""
        return [position for position, loss in enumerate(self.losses) if not np.isfinite(loss)]


def replay(directory: RunDirectory, step: int | None = None, data_dir: str = "") -> Replay:
    """Train again from the newest checkpoint before a step up to that step, and return what the step computes.

    The data pipeline repeats its examples and random draws, so that on the same kind and number of devices, with the
    same versions, the replayed step is the same bit for bit.

    Args:
        directory: the directory of the run.
        step: counted from 0, as in the message of a run that diverged; if not given, the first of the bad steps that
            the directory keeps.
        data_dir: the folder of the prepared data, if it is not where the run has recorded it.

    Raises:
        aa_flax.data.DataError: the data is not there.
        RunDirectoryError: no step is given and the run did not diverge, or the run has no such step.
    """
    config = on_these_devices(directory.read_config())
    if step is None:
        if not (kept := directory.read_failure()):
            raise RunDirectoryError(f"{directory.path}: the run did not diverge; name a step with --step")
        step = kept[-1]
    setup = set_up(dataclasses.replace(config, data=found_again(config.data, data_dir)), directory)
    program = setup.program
    if not 0 <= step < program.total_steps:
        raise RunDirectoryError(f"{directory.path}: the run has steps 0 to {program.total_steps - 1}, not {step}")
    state, start = _before(setup, directory, step)
    with setup.train_batches(start) as batches, jax.set_mesh(setup.layout.mesh):
        for number in range(start, step):
            state = program.train_step_at(number)(state, setup.placed(next(batches)))
        batch = next(batches)
        return _look(setup, state, batch, start)


def _before(setup: Setup, directory: RunDirectory, step: int) -> tuple[TrainState, int]:
    program = setup.program
    earlier = [saved for saved in saved_steps(directory.checkpoints) if saved <= step]
    if not earlier:
        return program.new_state(), 0
    with Checkpoints(directory.checkpoints) as checkpoints:
        return checkpoints.restore(program.state_shapes, earlier[-1]), earlier[-1]


def _look(setup: Setup, state: TrainState, batch: dict[str, np.ndarray], start: int) -> Replay:
    program = setup.program
    placed = jax.jit(taken)(setup.placed(batch))
    fetched = setup.layout.fetched(placed)
    images = fetched["image"]
    loss, _, _, grads = jax.jit(program.gradient_at(int(state.step)))(state, placed)
    losses = jax.jit(_losses(program, int(state.step)))(state, placed)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(setup.layout.fetched(state.params))]
    grads = setup.layout.fetched(grads)
    return Replay(
        step=int(state.step),
        replayed_from=start,
        loss=float(loss),
        bad_gradients=_not_finite(grads),
        bad_parameters=_not_finite(setup.layout.fetched(state.params)),
        largest_parameter=float(max(np.abs(leaf).max() for leaf in leaves)),
        gradient_norm=float(np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in jax.tree.leaves(grads)))),
        indices=batch["index"].tolist(),
        titles=[program.task.title({name: v[i] for name, v in fetched.items()}) for i in range(len(images))],
        losses=np.asarray(losses).tolist(),
        images=images,
    )


def _losses(program: Program, step: int) -> Any:
    of_images = program.losses_at(step)

    def losses(state: TrainState, batch: dict[str, Any]) -> jax.Array:
        batch_key, model_key = step_keys(program.config, state.step)
        images, targets, _ = program.task.prepare(batch, batch_key)
        (found, _), _ = of_images(state.params, state.batch_stats, images, targets, train=True, rngs=model_key)
        return found

    return losses


def _not_finite(tree: Any) -> list[str]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [".".join(str(part.key) for part in path) for path, leaf in flat if not np.isfinite(leaf).all()]
