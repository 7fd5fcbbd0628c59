"""Private names of other packages: this library uses them here and nowhere else, and only where no public one serves.

Each may change with any release of its package. `NAMES` lists them for the tests, which look them up in what is
installed, on the oldest supported versions and on newer ones.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

_CUDNN = "jax._src.cudnn.fused_attention_stablehlo"

NAMES = {
    "jax._src.distributed.global_state.client": "the store of keys and values that all processes of a run share",
    f"{_CUDNN}.check_cudnn_version": "gives the version of this machine's cuDNN when fused attention is traced",
    f"{_CUDNN}.check_compute_capability": "tells whether this machine's GPU has a compute capability, such as 9.0",
    "ml_collections.config_flags.config_flags._ErrorConfig": "what --config becomes where its file cannot be opened",
}
"""Private names, each with what it is; the last one's attribute `_error` is the reason."""


def shared_store() -> Any:
    """Return the client of JAX's store of keys and values, None where `jax.distributed` is not in use."""
    from jax._src import distributed

    return distributed.global_state.client


@contextlib.contextmanager
def cudnn_and_gpu(version: int, has_capability: Callable[[str], bool]) -> Iterator[None]:
    """Give JAX, while open, these answers when it traces fused attention, in place of those of this machine.

    Without the names that it replaces it does nothing, and JAX looks at this machine.

    Args:
        version: of cuDNN, 10000 × major + 100 × minor + patch.
        has_capability: tells whether the GPU has at least a compute capability, such as "9.0".
    """
    with contextlib.ExitStack() as stack:
        for name, answer in (
            ("check_cudnn_version", lambda: version),
            ("check_compute_capability", has_capability),
        ):
            with contextlib.suppress(AttributeError, ImportError):
                stack.enter_context(mock.patch(f"{_CUDNN}.{name}", answer))
        yield


def reason_for_no_config(config: Any) -> Exception | None:
    """Return why ml_collections could not open a config's file, None if it could.

    In that case `config` raises the error at any access to its fields.
    """
    reason = vars(config).get("_error")
    return reason if isinstance(reason, Exception) else None
