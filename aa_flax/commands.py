"""The program `aa-flax`: `aa-flax COMMAND ...` is `python -m aa_flax.COMMAND ...`, and nothing else is imported."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

import aa_flax
from aa_flax.literal import literal

COMMANDS = (
    *("train", "finetune", "evaluate", "predict", "export", "sheet", "checkpoints", "replay"),
    *("data", "weights", "plan", "ledger", "configs", "completion"),
)
"""Modules of this package, in the order in which they are listed."""


def main() -> None:
    """Run the command that the arguments name, with the arguments after it, as if Python had been asked to.

    The working directory is the last place where modules are looked for, so that `task.name=module:Class` finds one
    there, and none there hides another.
    """
    command, *arguments = sys.argv[1:] or [""]
    if command in ("--help", "-h", "help"):
        print(usage())
    elif command == "--version":
        print(f"aa_flax {aa_flax.__version__}")
    elif command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        asked = f"did you mean {near[0]}?" if near else "`aa-flax --help` lists them"
        print(f"error: unknown command {literal(command)!r}; {asked}" if command else usage(), file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"aa-flax {command}", *arguments]
        if not sys.flags.safe_path:
            sys.path.append("")
        runpy.run_module(f"aa_flax.{command}", run_name="__main__", alter_sys=True)


def usage() -> str:
    """Return what `--help` prints: each command with its meaning."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {meaning(command)}" for command in COMMANDS]
    return "\n".join(
        ["usage: aa-flax COMMAND ...", "", *lines, "", "aa-flax COMMAND --help says more; aa-flax --version"]
    )


def meaning(command: str) -> str:
    """Return the first words of a command's docstring, whose module is not imported for that."""
    module = Path(__file__).parent / command
    file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    return text.splitlines()[0].partition(": `")[0]
