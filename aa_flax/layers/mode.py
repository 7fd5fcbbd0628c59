"""Training and evaluation as a mode that a module is in, which each call may override."""

from flax import nnx


class WithMode(nnx.Module):
    """A module whose calls take `train`: True, False, or None for the mode that the module is in.

    `module.train()` and `module.eval()`, which NNX gives every module, set the mode of a module and of all modules
    inside it; `nnx.view(module, deterministic=..., use_running_average=...)` returns the same module in another mode. A
    module starts in evaluation. The mode is part of the graph of `nnx.split`, so a module merged from it has the mode
    too.
    """

    deterministic = True  # the attribute that `train()` and `eval()` set, as in `nnx.Dropout`

    def trains(self, train: bool | None) -> bool:
        """Return whether a call with this `train` is a call in training."""
        return not self.deterministic if train is None else train

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set the mode, for `nnx.view`.

        Args:
            deterministic: True for evaluation, False for training, None for no change.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def evaluates(train: bool | None) -> bool | None:
    """Return the opposite of `train`, which norms take as `use_running_average` and dropout as `deterministic`.

    None stays None, for which each of them uses its own mode.
    """
    return None if train is None else not train
