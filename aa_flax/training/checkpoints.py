"""Saving and restoring a run with Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from aa_flax.training.state import TrainState

_MODEL = ("params", "batch_stats", "ema")
_TRAINING = ("step", "opt_state", "window", "first_bad_step")


class Checkpoints:
    """The checkpoints of one run directory: items `model` (all that inference needs) and `training`.

    Restores always go against an abstract tree: Orbax gives integer keys and named tuples back as plain dicts
    otherwise, and layers would be permuted in silence.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("model", "training"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write the whole state under its step."""
        items = {
            "model": ocp.args.StandardSave({name: getattr(state, name) for name in _MODEL}),
            "training": ocp.args.StandardSave({name: getattr(state, name) for name in _TRAINING}),
        }
        self._manager.save(int(state.step), args=ocp.args.Composite(**items))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, with the shapes, dtypes, structure and placement of `like`."""

        def abstract(names: tuple[str, ...]) -> Any:
            tree = {name: getattr(like, name) for name in names}
            return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))

        step = self._manager.latest_step()
        restored = self._manager.restore(
            step, args=ocp.args.Composite(model=abstract(_MODEL), training=abstract(_TRAINING))
        )
        return TrainState(**restored["model"], **restored["training"])

    def restore_model(self, params: Any, batch_stats: Any, ema: bool) -> tuple[Any, Any]:
        """Parameters and batch statistics to infer with: the averaged ones where the run kept them."""
        model = {"params": params, "batch_stats": batch_stats}
        tree = {**model, "ema": model if ema else {}}
        target = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
        restored = self._manager.restore(self.latest_step, args=ocp.args.Composite(model=target))["model"]
        chosen = restored["ema"] or restored
        return chosen["params"], chosen["batch_stats"]
