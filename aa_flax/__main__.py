"""`python -m aa_flax COMMAND ...`, the same as `aa-flax COMMAND ...`."""

from aa_flax.commands import main

if __name__ == "__main__":
    main()
