"""Every number of the papers' parameter and cost columns beside ours: `python -m aa_flax.ledger`."""

from aa_flax.analysis.ledger import markdown


def main() -> None:
    """Print the ledger; `experiments/results/ledger.md` is this output."""
    print(markdown(), end="")


if __name__ == "__main__":
    main()
