"""Draw the images that a run's training step gets: `python -m aa_flax.sheet --config=FILE --out=sheet.png`.

Each of --rows training examples gets a row, named by its targets. The row shows the example as it is stored, then
--columns random draws of its augmentation: the host's crop and operations, then all that the config does on the device,
with the normalisation undone. Nothing is trained; the network is not built.
"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax import data
from aa_flax.config.command_line import config_value, define_config, fail, run
from aa_flax.config.schema import Config, ConfigError, resolve
from aa_flax.data.augment.host import crop_settings, make_host_augment
from aa_flax.data.preprocessing import Preprocessing, preprocessing_for
from aa_flax.drawing.boxes import color_key
from aa_flax.drawing.saving import drawable, in_plain_style, saved
from aa_flax.literal import literal
from aa_flax.tasks import OPTIONS, Task, begin, make_task, option_schemas, places

_CELL, _GAP, _HEAD, _FOOT = 1.3, 0.06, 0.22, 0.3  # inches: shorter side of a picture, between pictures, titles, key
_LETTERS = 16  # in an inch of a title, at least
_DPI = 110


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_config(values, required=True)
    flags.DEFINE_string("out", "sheet.png", "PNG file to write.", flag_values=values)
    flags.DEFINE_integer("rows", 8, "How many examples.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("columns", 8, "How many draws of each.", lower_bound=1, flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Draw one sheet and write it to a file."""
    file = Path(values.out).expanduser()
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    if file.suffix != ".png":
        fail(f"--out: expected a name that ends in .png, got {file}")
    config = resolve(config_value(values, OPTIONS))
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    if dataset.has_signals:
        fail(f"{dataset.name} has signals, which are no pictures")
    preprocessing = preprocessing_for(config, dataset)
    task = make_task(config, preprocessing)
    source = dataset.split(config.data.train_split, task.targets, fast_decode=config.data.fast_decode)
    begin(task, None)
    rows = min(values.rows, len(source))
    try:
        make_task(dataclasses.replace(config, batch_size=rows), preprocessing).check(1)
    except ConfigError as error:
        fail(f"--rows={rows}, which makes a batch: {error}")
    # The examples are spread over the split, which may be sorted.
    shown = Shown(source, np.linspace(0, len(source) - 1, rows).round().astype(int).tolist())
    draws, targets = augmented(config, task, preprocessing, shown, values.columns)
    draw([shown[row] for row in range(rows)], draws, targets, task, file)
    print(f"{literal(str(file))}: {rows} examples of {source.name}, {values.columns} draws each")


class Shown(data.Source):
    """A few examples of another source; an index is a position among them."""

    def __init__(self, source: data.Source, indices: list[int]):
        self.name, self.image_shape, self.target_shapes = source.name, source.image_shape, source.target_shapes
        self.placed, self.read_shapes, self.maps = source.placed, source.read_shapes, source.maps
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[self._indices[index]], "index": index}

    def part(self, index: int, *arguments: Any) -> dict[str, Any]:
        return {**self._source.part(self._indices[index], *arguments), "index": index}

    def __getitems__(self, indices: Any) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def cached(self) -> data.Source:
        return self


def augmented(
    config: Config, task: Task, preprocessing: Preprocessing, shown: data.Source, columns: int
) -> tuple[list[list[Float[np.ndarray, "h w c"]]], list[list[dict[str, np.ndarray]]]]:
    """Return `columns` augmented draws of each example, pixels 0 to 255, and the targets of each, both [columns][rows].

    Each draw is one epoch's batch and step.
    """
    prepare, rows = jax.jit(task.prepare), len(shown)
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    drawn: list[list[np.ndarray]] = [[np.empty(0)] * rows for _ in range(columns)]
    targets: list[list[dict[str, np.ndarray]]] = [[{} for _ in range(rows)] for _ in range(columns)]
    with data.train_batches(
        shown,
        batch_size=rows,
        seed=config.seed,
        image_size=preprocessing.image_size,
        fill=preprocessing.mean_pixel,
        **crop_settings(config),
        augment=make_host_augment(config, preprocessing),
        num_threads=0,
    ) as batches:
        for column in range(columns):
            batch = next(batches)
            key = jax.random.fold_in(jax.random.key(config.seed), column)
            images, moved, _ = prepare({name: values for name, values in batch.items() if name != "index"}, key)
            pixels = 255 * (np.asarray(images, np.float64) * std + mean)
            # What is read of an example, and in its place what the augmentation has moved.
            arrays = {
                name: moved[name] if places(task) and name in moved else batch[name] for name in shown.target_shapes
            }
            for place, row in enumerate(batch["index"].tolist()):
                drawn[column][row] = pixels[place]
                targets[column][row] = {name: np.asarray(values[place]) for name, values in arrays.items()}
    return drawn, targets


@in_plain_style
def draw(
    originals: list[dict[str, Any]],
    draws: list[list[Float[np.ndarray, "h w c"]]],
    targets: list[list[dict[str, np.ndarray]]],
    task: Any,
    file: Path,
) -> None:
    """Write the sheet as a PNG file.

    Args:
        originals: the examples as they are stored.
        draws: their augmented pixels, [columns][rows].
        targets: those of each draw, [columns][rows].
        task: names an example, draws targets that lie in the image over it, and has the key to their colours.
        file: the PNG.
    """
    mark = getattr(task, "mark", lambda axes, example: None)
    rows, (height, width) = len(draws[0]), draws[0][0].shape[:2]
    cells = [[originals[row], *(drawn[row] for drawn in targets)] for row in range(rows)]
    key = task.key([example for line in cells for example in line]) if hasattr(task, "key") else []
    wide, tall = _CELL * max(1.0, width / height), _CELL * max(1.0, height / width)
    size = (len(cells[0]) * (wide + _GAP) + _GAP, rows * (_HEAD + tall + _GAP) + (_FOOT if key else 0.0))
    figure = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    for row, line in enumerate(cells):
        pixels = [originals[row]["image"].astype(float), *(column[row] for column in draws)]
        bottom = size[1] - (row + 1) * (_HEAD + tall) - row * _GAP
        words = one_line(drawable(task.title(originals[row])), int(_LETTERS * size[0]))
        figure.text(_GAP / size[0], (bottom + tall + _GAP) / size[1], words, fontsize=7, parse_math=False)
        for column, (example, image) in enumerate(zip(line, pixels, strict=True)):
            left = _GAP + column * (wide + _GAP)
            axes = figure.add_axes((left / size[0], bottom / size[1], wide / size[0], tall / size[1]))
            axes.set_anchor("NW" if column == 0 else "N")
            shown = np.clip(image, 0, 255).round().astype(np.uint8)
            axes.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            mark(axes, example)
    if key:
        names, colors = zip(*key, strict=True)
        color_key(figure, range(len(key)), names, _FOOT / 2 / size[1], 7.0, lambda place: colors[place])
    saved(figure, file, _DPI)


def one_line(title: str, width: int) -> str:
    """Return a title in at most so many characters; what is left out, from between two words on, is an ellipsis."""
    return "".join(textwrap.wrap(title, width, max_lines=1, placeholder=" \N{HORIZONTAL ELLIPSIS}"))


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(data.DataError, OSError), tasks=option_schemas)


if __name__ == "__main__":
    command()
