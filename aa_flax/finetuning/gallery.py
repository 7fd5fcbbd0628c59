"""A gallery of what a classifier says of held-out photographs, its surest mistakes first."""

from pathlib import Path

import numpy as np

from aa_flax import data
from aa_flax.drawing.examples import Annotated, draw_examples
from aa_flax.inference import load
from aa_flax.runs.directory import RunDirectory

NAME = "surest_mistakes.png"
_LOOKED_AT = 256  # held-out photographs
_SHOWN, _SIDE = 12, 400  # photographs, and about how many of their pixels along the longer side


def draw_gallery(directory: RunDirectory) -> Path | None:
    """Draw the surest mistakes of a finished run's classifier, and after them its least sure right answers.

    Up to 256 held-out photographs are looked at, spread over all. Nothing is drawn for another task, or again.

    Returns:
        The picture in the directory of the run; None for another task.
    """
    config, file = directory.read_config(), directory.path / NAME
    if config.task.name != "classification" or file.exists():
        return file if file.exists() else None
    predictor = load(directory.path)
    source = data.load(config.data.name, data_dir=config.data.data_dir).split(config.data.eval_split)
    found = []
    for place in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).round().astype(int).tolist():
        example = source[place]
        said, truth = predictor(example["image"]), int(example["label"])
        step = max(1, max(example["image"].shape) // _SIDE)
        wrong = said.label != truth
        words = f"{said.name} {said.probability:.0%}" + (f", is {predictor.names[truth]}" if wrong else "")
        # The surest mistake is first, the surest right answer last.
        found.append(
            (-said.probability if wrong else said.probability, Annotated(example["image"][::step, ::step], words))
        )
    shown = [each for _, each in sorted(found, key=lambda pair: pair[0])[:_SHOWN]]
    draw_examples(shown, predictor.names, file)
    return file
