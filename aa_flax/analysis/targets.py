"""Machines to compile for, by name: slices of a TPU and machines with GPUs, and the compiler of each."""

from typing import Any

from aa_flax.analysis import gpu_compiler, tpu_compiler
from aa_flax.analysis.cards import CARDS, Machine, find_machine
from aa_flax.analysis.compiler import Compiler
from aa_flax.analysis.slices import Slice, find_slice

Target = Slice | Machine


def find_target(name: str) -> Target:
    """The slice or the machine of a name: `v5e:4x4`, `v5litepod-16`, `h100:8`.

    Raises:
        TargetError: nothing of that name.
    """
    return find_machine(name) if name.partition(":")[0] in CARDS else find_slice(name)


def compiler_of(target: Target) -> Compiler[Any]:
    """The compiler that makes programs for a target."""
    compiler: Compiler[Any] = gpu_compiler if isinstance(target, Machine) else tpu_compiler
    return compiler
