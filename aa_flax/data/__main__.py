"""Prepare, check, draw and shrink data sets: `python -m aa_flax.data prepare|check|draw|shrink NAME`.

    prepare NAME --source_dir=FOLDER   writes a data set of this library into --data_dir, once
                                       --skip_damaged leaves out images that are missing or cannot be decoded
    prepare NAME --manual_dir=FOLDER   writes one of the TFDS catalogue; downloads what it may
    check NAME                         prints what is wrong with a prepared data set
    draw NAME --out=FILE.png           draws --count photographs of --split with label maps, boxes and masks, or classes
    shrink NAME --short_side=256       stores it again as NAME_side256, as JPEGs of --quality

NAME may be the folder of one version of a prepared data set for `check` and `shrink`. `draw` writes examples that are
spread over the split evenly, as they are stored.
`check` decodes 1,000 examples of each split, or with --full every one; its exit status is 1 if something is wrong.
"""

from pathlib import Path
from typing import NoReturn

import numpy as np
from absl import flags

from aa_flax.config.command_line import run
from aa_flax.data.boxes import Boxes
from aa_flax.data.check import check
from aa_flax.data.datasets import Dataset, is_prepared, load, locate
from aa_flax.data.errors import DataError
from aa_flax.data.masks import mask_of
from aa_flax.data.prepared import resolve_data_dir
from aa_flax.data.sets.catalogue import prepare_from_catalogue
from aa_flax.data.sets.own import in_catalogue, prepare
from aa_flax.data.shrink import Shrunk
from aa_flax.data.source import Source
from aa_flax.drawing.examples import Annotated, draw_examples
from aa_flax.literal import literal


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "data_dir", "", "Where prepared data lies; $TFDS_DATA_DIR or ~/tensorflow_datasets.", flag_values=values
    )
    flags.DEFINE_string("source_dir", "", "prepare: folder with the files.", flag_values=values)
    flags.DEFINE_bool(
        "skip_damaged", False, "prepare: leave out images of a folder that are missing or damaged.", flag_values=values
    )
    flags.DEFINE_string("manual_dir", "", "prepare: folder with files that TFDS may not download.", flag_values=values)
    flags.DEFINE_bool("full", False, "check: decode every example.", flag_values=values)
    flags.DEFINE_string("split", "", "draw: a split, or a part such as train[:10%]; the first one.", flag_values=values)
    flags.DEFINE_integer("count", 12, "draw: how many photographs.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", "examples.png", "draw: PNG file to write.", flag_values=values)
    flags.DEFINE_integer(
        "short_side", 256, "shrink: pixels of the shorter side; smaller images stay.", flag_values=values
    )
    flags.DEFINE_integer("quality", 95, "shrink: of the JPEGs, 1 to 100.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> int | None:
    """Run the command that the arguments name and return its exit status, None for success.

    Raises:
        DataError: an unknown command, no name or more than one, or whatever the command finds wrong.
    """
    commands = {"prepare": _prepare, "check": _check, "draw": _draw, "shrink": _shrink}
    if len(argv) != 3 or argv[1] not in commands:
        raise DataError(f"expected {', '.join(commands)}, and a name; got {' '.join(argv[1:]) or 'nothing'}")
    return commands[argv[1]](argv[2], values)


def _prepare(name: str, values: flags.FlagValues) -> None:
    if in_catalogue(name) and not values.source_dir and not is_prepared(name, values.data_dir):
        prepare_from_catalogue(name, resolve_data_dir(values.data_dir), values.manual_dir)
    dataset = load(name, data_dir=values.data_dir, source_dir=values.source_dir, skip_damaged=values.skip_damaged)
    sizes = ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items())
    print(literal(f"{dataset.folder}: {sizes}; {dataset.num_classes} classes"))


def _check(name: str, values: flags.FlagValues) -> int:
    report = check(_folder(name, values.data_dir), None if values.full else 1000)
    for finding in report.findings:
        print(literal(finding))
    print(report)
    return 1 if report.findings else 0


def _draw(name: str, values: flags.FlagValues) -> None:
    file = Path(values.out).expanduser()
    if file.suffix != ".png":
        raise DataError(f"--out: expected a name that ends in .png, got {file}")
    dataset = load(name, data_dir=values.data_dir)
    if dataset.has_signals:
        raise DataError(f"{name} has signals, which are no pictures")
    targets = Boxes(most=10_000) if dataset.has_objects else None
    split = values.split or next(iter(dataset.splits))
    source = dataset.split(split, targets)
    places = np.linspace(0, len(source) - 1, min(values.count, len(source))).round().astype(int).tolist()
    examples = [_annotated(source, place, dataset) for place in places]
    draw_examples(examples, dataset.class_names, file, given_colors=dataset.class_colors)
    print(literal(f"{file}: {len(examples)} examples of {source.name}"))


def _annotated(source: Source, place: int, dataset: Dataset) -> Annotated:
    """Return an example as it is drawn."""
    example = source[place]
    number, pixels = f"example {example['index']}", example["image"]
    if dataset.has_label_maps:
        return Annotated(pixels, number, labels=example["labels"])
    if dataset.has_objects:
        truth = source.annotations.truth(place)
        objects = truth.objects.some(~truth.crowd & (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(1))
        size = truth.height, truth.width
        masks = [mask_of(text, size).pixels() if text else np.zeros(size, np.bool_) for text in objects.segmentations]
        boxes = objects.boxes.astype(np.float32)
        return Annotated(pixels, number, boxes=boxes, classes=objects.labels, masks=masks or None)
    return Annotated(pixels, f"{number}: {dataset.class_names[int(example['label'])]}")


def _shrink(name: str, values: flags.FlagValues) -> None:
    origin = Shrunk(_folder(name, values.data_dir), values.short_side, values.quality)
    prepare(origin, resolve_data_dir(values.data_dir))
    _prepare(origin.stored_name, values)


def _folder(name: str, data_dir: str) -> Path:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else locate(name, data_dir)


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(DataError, OSError))


if __name__ == "__main__":
    command()
