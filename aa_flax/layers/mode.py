"""Training and evaluation as a mode that a module is in, beside what each call may say."""

from flax import nnx


class WithMode(nnx.Module):
    """A module whose calls take `train`: True, False, or None for the mode that it is in.

    `module.train()` and `module.eval()`, which NNX gives every module, set the mode of a module and of all inside it;
    `nnx.view(module, deterministic=..., use_running_average=...)` gives the same module in another mode. It starts in
    evaluation. The mode is part of the graph of `nnx.split`, so that it holds for what is merged from that too.
    """

    deterministic = True  # the attribute that `train()` and `eval()` set, as in `nnx.Dropout`

    def trains(self, train: bool | None) -> bool:
        """Return whether a call that was given `train` is one of training."""
        return not self.deterministic if train is None else train

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set the mode, for `nnx.view`.

        Args:
            deterministic: True for evaluation, False for training, None for no change.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def evaluates(train: bool | None) -> bool | None:
    """Return what norms (`use_running_average`) and dropout (`deterministic`) are told for `train`: its opposite.

    None stays None, with which each of them goes by its own mode.
    """
    return None if train is None else not train
