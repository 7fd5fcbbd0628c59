"""Machines to compile for, by name: slices of a TPU and machines with GPUs, and the compiler of each."""

from typing import Any

from aa_flax.analysis import gpu_compiler, tpu_compiler
from aa_flax.analysis.cards import CARDS, Machine, find_machine
from aa_flax.analysis.compiler import Compiler, TargetError
from aa_flax.analysis.slices import CHIPS, Slice, find_slice

Target = Slice | Machine


def find_target(name: str) -> Target:
    """Return the slice or the machine of a name: `v5e:4x4`, `v5litepod-16`, `h100:8`.

    Raises:
        TargetError: there is no slice or machine of that name.
    """
    kind = name.partition(":")[0]
    if kind in CARDS:
        return find_machine(name)
    try:
        return find_slice(name)
    except TargetError as error:
        if kind in CHIPS:
            raise
        raise TargetError(f"{error}; or machines with GPUs, {', '.join(CARDS)}, such as h100:8") from None


def compiler_of(target: Target) -> Compiler[Any]:
    """Return the compiler for the programs of a target."""
    compiler: Compiler[Any] = gpu_compiler if isinstance(target, Machine) else tpu_compiler
    return compiler
