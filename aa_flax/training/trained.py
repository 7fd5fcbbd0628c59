"""The network that a run has trained."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from aa_flax.data.placement import resized
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.functional import functional
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.held_out import HeldOut
from aa_flax.runs.hosts import first_says
from aa_flax.runs.metrics import read_metrics
from aa_flax.tasks import Task, make_task, places, rows_of
from aa_flax.training.initial import build_model


def load_model(directory: RunDirectory, checkpoint: int | Literal["last", "best"] = "last") -> tuple[nnx.Module, int]:
    """Return the trained network, with averaged weights where the run kept them, and the step it was saved at.

    Args:
        directory: the directory of the run.
        checkpoint: "last", the newest undamaged one; "best", the one with the highest held-out score, of equal ones the
            first; or the step of one.

    Raises:
        RunDirectoryError: no run directory, one without a checkpoint, or for "best" without one that was evaluated.
        CheckpointError: no such checkpoint, or it is damaged, or all are.
    """
    if checkpoint not in ("last", "best") and (isinstance(checkpoint, bool) or not isinstance(checkpoint, Integral)):
        raise ValueError(f'checkpoint must be "last", "best" or a step, got {checkpoint!r}')
    config = directory.read_config()
    if not directory.has_checkpoint:
        raise RunDirectoryError(f"{directory.path} has no checkpoint yet")
    task = make_task(config, directory.read_preprocessing())
    with jax.default_device(jax.local_devices()[0]):
        model = build_model(config, task)
    _, params, batch_stats = functional(model)
    ema = bool(config.optimizer.ema_decay)
    with Checkpoints(directory.checkpoints) as checkpoints:
        while True:
            if checkpoint == "best":
                chosen = best_step(directory, task)
            else:
                chosen = checkpoints.latest_step if checkpoint == "last" else int(checkpoint)
            if chosen is None:
                raise RunDirectoryError(
                    f"{directory.path} has no checkpoint {'yet' if checkpoint == 'last' else 'that was evaluated'}"
                )
            try:
                params, batch_stats = checkpoints.restore_model(params, batch_stats, ema, chosen)
            except Exception:
                # A run that trains there may have deleted it meanwhile, and then has a newer or better one.
                if checkpoint not in ("last", "best") or chosen in saved_steps(directory.checkpoints):
                    raise
            else:
                break
    nnx.update(model, params, batch_stats)
    return model, chosen


def best_step(directory: RunDirectory, task: Task) -> int | None:
    """Return the step of the best checkpoint of a run, the same in all processes; None if none was evaluated.

    The best has the highest score, of equal ones the first, `aa_flax.runs.held_out`. A damaged one is not passed over.
    """
    best = HeldOut(task.headline, read_metrics(directory.log)).best_step(saved_steps(directory.checkpoints))
    step = first_says(-1 if best is None else best)
    return None if step < 0 else step


def make_predict(model: nnx.Module, task: Task, preprocessing: Preprocessing) -> Callable[..., Any]:
    """Return the compiled function from uint8 images [b, h, w, c] to what the task keeps of their predictions.

    It takes the placement [b, 8] of the images besides, where the task's targets lie in the image; without it they fill
    their canvas. What is kept is what `aa_flax.tasks.rows_of` gives. The function raises ValueError, before anything is
    computed, for images that the network cannot take.
    """
    apply, params, batch_stats = functional(model, lambda model, *arguments, **_: task.predict(model, *arguments))

    @jax.jit
    def compiled(variables: Any, images: Any, placement: Any) -> Any:
        predictions, _ = apply(*variables, preprocessing.normalize(images, placement), placement)
        return rows_of(task, predictions, images, placement)

    def predict(images: Any, placement: Any = None) -> Any:
        if not places(task):
            placement = None
        elif placement is None:
            whole = resized(images.shape[1:3])(*images.shape[1:3]).as_array()
            placement = np.broadcast_to(whole, (images.shape[0], *whole.shape))
        return compiled((params, batch_stats), images, placement)

    return predict
