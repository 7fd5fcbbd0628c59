"""List the configs that have a name for --config, or print what one says of itself: `python -m aa_flax.configs [NAME]`.

They are the files of experiments/, of the checkout in which the command runs, else of the library. A config's own words
are its command, its recipe, what is not known of that, and the numbers of the paper.
"""

import argparse
import ast
import signal
from pathlib import Path

from aa_flax.config.named import UnknownConfig, config_names, located


def command() -> None:
    """Run the command line."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # readers such as `head` may go
    parser = argparse.ArgumentParser(
        "aa-flax configs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="a config, such as imagenet/aa_resnet50")
    name = parser.parse_args().name
    if name is None:
        print(*config_names(), sep="\n")
        return
    try:
        file = Path(located(name).partition(":")[0])
    except UnknownConfig as error:
        parser.exit(2, f"error: {error}\n")
    print(file, ast.get_docstring(ast.parse(file.read_bytes())) or "", sep="\n\n")


if __name__ == "__main__":
    command()
