"""Look after prepared data sets: `python -m aa_flax.data prepare|check|shrink NAME`.

    prepare NAME --source_dir=FOLDER   writes one of this library's data sets into --data_dir, once
    prepare NAME --manual_dir=FOLDER   the same for one of the TFDS catalogue; downloads what may be downloaded
    check NAME                         says what is wrong with a prepared one; NAME may be its folder, with its version
    shrink NAME --short_side=256       stores a prepared one again as NAME_side256, as JPEG of --quality

`check` decodes 1,000 examples of each split, or with --full every one; status 1 if something is wrong.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from aa_flax.data.check import check
from aa_flax.data.datasets import is_prepared, load, locate
from aa_flax.data.errors import DataError
from aa_flax.data.prepared import resolve_data_dir
from aa_flax.data.sets.catalogue import prepare_from_catalogue
from aa_flax.data.sets.own import in_catalogue, prepare
from aa_flax.data.shrink import Shrunk

_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data lies; $TFDS_DATA_DIR or ~/tensorflow_datasets.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", "", "prepare: folder with the files.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "prepare: folder with files that TFDS may not download.")
_FULL = flags.DEFINE_bool("full", False, "check: decode every example.")
_SHORT_SIDE = flags.DEFINE_integer("short_side", 256, "shrink: pixels of the shorter side; smaller images stay.")
_QUALITY = flags.DEFINE_integer("quality", 95, "shrink: of the JPEGs, 1 to 100.")


def main(argv: list[str]) -> int | None:
    """One of the commands."""
    commands = {"prepare": _prepare, "check": _check, "shrink": _shrink}
    if len(argv) != 3 or argv[1] not in commands:
        raise DataError(f"expected {', '.join(commands)}, and a name; got {' '.join(argv[1:]) or 'nothing'}")
    return commands[argv[1]](argv[2])


def _prepare(name: str) -> None:
    if in_catalogue(name) and not _SOURCE_DIR.value and not is_prepared(name, _DATA_DIR.value):
        prepare_from_catalogue(name, resolve_data_dir(_DATA_DIR.value), _MANUAL_DIR.value)
    dataset = load(name, data_dir=_DATA_DIR.value, source_dir=_SOURCE_DIR.value)
    sizes = ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items())
    print(f"{dataset.folder}: {sizes}; {dataset.num_classes} classes")


def _check(name: str) -> int:
    report = check(_folder(name), None if _FULL.value else 1000)
    for finding in report.findings:
        print(finding)
    print(report)
    return 1 if report.findings else 0


def _shrink(name: str) -> None:
    origin = Shrunk(_folder(name), _SHORT_SIDE.value, _QUALITY.value)
    prepare(origin, resolve_data_dir(_DATA_DIR.value))
    _prepare(origin.stored_name)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else locate(name, _DATA_DIR.value)


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
