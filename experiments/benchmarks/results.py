"""Common parts of the benchmarks' commands: flags, the origin of their numbers, and the file that stores them."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from aa_flax.analysis.cards import Card
from aa_flax.analysis.provenance import package_version, provenance
from aa_flax.analysis.targets import compiler_of, find_target
from aa_flax.json_values import to_json

RESULTS = Path(__file__).parents[1] / "results"


def flags(description: str | None, output: str) -> argparse.ArgumentParser:
    """Return a parser that prints a module's docstring for `--help` and has the flag --output.

    Args:
        description: the docstring of the module.
        output: name of the file under experiments/results/ that is written by default; "" for a name that depends on
            the device.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = RESULTS / output if output else None
    parser.add_argument("--output", type=Path, default=default, help="JSON file, instead of experiments/results/...")
    return parser


def origin(name: str, arguments: Sequence[str] = (), target: str = "") -> dict[str, Any]:
    """Return the origin of numbers, in the form of `aa_flax.analysis.provenance`.

    Args:
        name: the name of the benchmark, for its command.
        arguments: the rest of that command.
        target: what programs were compiled for, such as "h100:1", if they did not run on this machine.
    """
    found = provenance(shlex.join(["python", "-m", f"experiments.benchmarks.{name}", *arguments]))
    if target:
        wanted = find_target(target)
        found["device"] = wanted.chip.title if isinstance(wanted.chip, Card) else f"TPU {wanted.chip.name}"
        found["ran"] = "nothing: compiled on a CPU and counted"
        found["versions"] |= {package: package_version(package) for package in compiler_of(wanted).packages()}
        found["topology"] = target
    return found


def file_here(name: str) -> Path:
    """Return the file of what was found on the machine at hand, by device and version of JAX."""
    return RESULTS / f"{name}_{jax.default_backend()}_jax{jax.__version__}.json"


def store(result: Mapping[str, Any], file: Path) -> None:
    """Write a result to a file and print where."""
    file.write_text(to_json(result, indent=1) + "\n")
    print(f"written to {file}")
