"""Look after prepared data sets: `python -m aa_flax.data prepare|check NAME`.

    prepare NAME --source_dir=FOLDER   writes one of this library's data sets into --data_dir, once
    check NAME                         says what is wrong with a prepared one; NAME may be its folder, with its version

`check` decodes 1,000 examples of each split, or with --full every one; status 1 if something is wrong.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from aa_flax.data.check import check
from aa_flax.data.datasets import load, locate
from aa_flax.data.errors import DataError

_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data lies; $TFDS_DATA_DIR or ~/tensorflow_datasets.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", "", "prepare: folder with the files.")
_FULL = flags.DEFINE_bool("full", False, "check: decode every example.")


def main(argv: list[str]) -> int | None:
    """One of the commands."""
    commands = {"prepare": _prepare, "check": _check}
    if len(argv) != 3 or argv[1] not in commands:
        raise DataError(f"expected {' or '.join(commands)}, and a name; got {' '.join(argv[1:]) or 'nothing'}")
    return commands[argv[1]](argv[2])


def _prepare(name: str) -> None:
    dataset = load(name, data_dir=_DATA_DIR.value, source_dir=_SOURCE_DIR.value)
    sizes = ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items())
    print(f"{dataset.folder}: {sizes}; {dataset.num_classes} classes")


def _check(name: str) -> int:
    folder = Path(name).expanduser()
    report = check(folder if folder.is_dir() else locate(name, _DATA_DIR.value), None if _FULL.value else 1000)
    for finding in report.findings:
        print(finding)
    print(report)
    return 1 if report.findings else 0


def _guarded(argv: list[str]) -> int | None:
    try:
        return main(argv)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(_guarded, flags_parser=_parse)
