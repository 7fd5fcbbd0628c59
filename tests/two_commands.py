"""Import every command into one process and run some in turn: `two_commands.py '[["train", "--x"], ...]'`.

Their output is followed by a line with their exit statuses.
"""

import importlib
import json
import sys

COMMANDS = ["train", "evaluate", "predict", "plan", "ledger", "sheet", "replay", "checkpoints"]
COMMANDS += ["data.__main__", "weights.__main__"]

if __name__ == "__main__":
    modules = {name: importlib.import_module(f"aa_flax.{name}") for name in COMMANDS}
    statuses = []
    for name, *arguments in json.loads(sys.argv[1]):
        sys.argv = [name, *arguments]
        try:
            modules[name].command()
        except SystemExit as end:
            statuses.append(end.code or 0)
    print(statuses)
