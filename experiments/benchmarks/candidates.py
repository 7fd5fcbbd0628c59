"""A function in JAX or PyTorch as the two programs that are timed: forward, and forward with gradients."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Program, jax_program

PASSES = ("forward", "forward_backward")
HAS_PYTORCH = importlib.util.find_spec("torch") is not None


@dataclass
class Candidate:
    """The programs of a function that can be run, by pass, and why others cannot."""

    programs: dict[str, Program] = field(default_factory=dict)
    temporary_bytes: dict[str, int] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    @classmethod
    def absent(cls, reason: str) -> "Candidate":
        """Return a candidate without programs, for one reason."""
        return cls(not_measured=dict.fromkeys(PASSES, reason))

    def row(self, times: dict[str, float]) -> dict[str, Any]:
        """Return columns of a result: milliseconds and bytes by pass, None where there are none, and the reasons."""
        row: dict[str, Any] = {f"{name}_ms": times.get(name) for name in PASSES}
        row |= {f"{name}_temporary_bytes": self.temporary_bytes.get(name) for name in PASSES}
        return row | ({"not_measured": self.not_measured} if self.not_measured else {})


def jax_candidate(
    function: Callable[..., jax.Array],
    inputs: Sequence[Any],
    *,
    free_bytes: int,
    by: Sequence[int] | None = None,
) -> Candidate:
    """Compile a JAX function; a pass that would not fit into memory is left out.

    Args:
        function: a function of `inputs` that returns one array.
        inputs: arrays, or trees of them.
        free_bytes: limit of the temporary memory that the compiler reports.
        by: the inputs by which gradients are taken; None is all.
    """
    by = range(len(inputs)) if by is None else by

    candidate = Candidate()
    try:
        output = jax.eval_shape(function, *inputs)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=output.shape), output.dtype)
        for name, program, arguments in (
            ("forward", function, inputs),
            ("forward_backward", with_gradients(function, by), (cotangent, *inputs)),
        ):
            compiled: Any = jax.jit(program).lower(*arguments).compile()
            needed = compiled.memory_analysis().temp_size_in_bytes
            candidate.temporary_bytes[name] = needed
            if needed > free_bytes:
                candidate.not_measured[name] = _too_large(needed, free_bytes)
            else:
                candidate.programs[name] = jax_program(compiled, *arguments)
    except (RuntimeError, TypeError, ValueError) as error:  # an implementation that does not serve this call says so
        return Candidate.absent(reason(error))
    return candidate


def with_gradients(function: Callable[..., jax.Array], by: Iterable[int]) -> Callable[..., Any]:
    """Return the function (cotangent, *inputs) -> value of a function, and its gradients by some of the inputs."""

    def forward_backward(cotangent: jax.Array, *inputs: Any) -> Any:
        output, pullback = jax.vjp(function, *inputs)
        gradients = pullback(cotangent)
        return output, [gradients[i] for i in by]

    return forward_backward


def pytorch_candidate(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    estimated_bytes: int,
    free_bytes: int,
    by: Sequence[int] | None = None,
) -> Candidate:
    """Prepare a PyTorch function, run eagerly. Each pass is tried once; one that raises is left out with its reason.

    Args:
        function: a function of `inputs` that returns one tensor.
        inputs: leaves that require gradients.
        estimated_bytes: memory that it may need, at most `free_bytes`.
        free_bytes: memory that is available.
        by: the inputs by which gradients are taken; None is all.
    """
    import torch

    if estimated_bytes > free_bytes:
        return Candidate.absent(_too_large(estimated_bytes, free_bytes))
    wanted = [inputs[i] for i in (range(len(inputs)) if by is None else by)]
    detached = [leaf.detach() for leaf in inputs]  # FlexAttention needs this on a CPU, with and without no_grad

    def forward() -> Any:
        with torch.no_grad():
            return function(*detached)

    def forward_backward() -> Any:
        output = function(*inputs)
        return torch.autograd.grad(output, wanted, cotangent)

    candidate = Candidate()
    on_gpu = inputs[0].is_cuda
    for name, one in (("forward", forward), ("forward_backward", forward_backward)):
        try:
            if name == "forward":
                cotangent = torch.randn_like(one())
            else:
                one()
            candidate.programs[name] = _pytorch_program(one, on_gpu)
            if on_gpu:
                candidate.temporary_bytes[name] = _peak_of(one)
        except Exception as error:  # PyTorch's compiler raises types of its own
            candidate.not_measured[name] = reason(error)
            if name == "forward":
                return Candidate.absent(reason(error))
    return candidate


def without_pytorch() -> Candidate:
    """Return the candidate of a machine without PyTorch."""
    return Candidate.absent("PyTorch is not installed")


def faster(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Return the row with the shortest time of a pass; None if none was measured."""
    measured = [row for row in rows if row[f"{name}_ms"] is not None]
    return min(measured, key=lambda row: row[f"{name}_ms"], default=None)


def settings(device: str) -> dict[str, Any]:
    """Return what a result says about PyTorch, beside the versions of JAX."""
    if not HAS_PYTORCH:
        return {"pytorch": "not installed"}
    import torch

    return {"pytorch": {"version": torch.__version__, "threads": torch.get_num_threads(), "device": device}}


def pytorch_device() -> str:
    """Return PyTorch's name of the kind of device that JAX uses."""
    return {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend(), "cpu")


def programs_of(candidates: dict[str, Candidate]) -> dict[tuple[str, str], Program]:
    """Return all programs that can be run, by name and pass."""
    return {(name, key): program for name, each in candidates.items() for key, program in each.programs.items()}


def _pytorch_program(one: Callable[[], Any], on_gpu: bool) -> Program:
    import torch

    def run(times: int) -> None:
        for _ in range(times):
            one()
        if on_gpu:
            torch.cuda.synchronize()

    return run


def _peak_of(one: Callable[[], Any]) -> int:
    """Return the most memory that a call holds at once on the GPU, results included, beyond what it started with."""
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _too_large(needed: int, free: int) -> str:
    return f"would take {needed / 1e9:.1f} GB of temporary memory; {free / 1e9:.1f} GB may be used"


def is_refusal(error: Exception) -> bool:
    """Return whether an error says that an implementation does not serve a call; compilers and devices raise others."""
    kinds = (NotImplementedError, RuntimeError, TypeError, ValueError)
    return isinstance(error, kinds) and not isinstance(error, jax.errors.JaxRuntimeError)


def reason(error: Exception) -> str:
    """Return an error in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
