"""Print every figure of the papers' parameter and cost columns beside ours: `python -m aa_flax.ledger`."""

from typing import NoReturn

from absl import flags

from aa_flax.analysis.ledger import markdown
from aa_flax.config.command_line import fail, run


def define(values: flags.FlagValues) -> None:
    """Define no flag: the command has none."""


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Print the ledger; `experiments/results/ledger.md` is this output."""
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    print(markdown(), end="")


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define)


if __name__ == "__main__":
    command()
