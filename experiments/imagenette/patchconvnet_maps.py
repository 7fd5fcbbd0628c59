"""Results of the runs of `patchconvnet.py`, and what their tokens attend to in photographs from another data set.

    python experiments/imagenette/patchconvnet_maps.py --workdir=runs/patchconvnet --photos=FOLDER --write

--workdir holds the finished runs `single`, `class` and `average`, or some of them. FOLDER holds val2017 and train2017
with the photographs of COCO that `PHOTOS` names; their licences permit a picture of them, Imagenette's do not.
`python -m aa_flax.predict --workdir=DIR --attention=FOLDER --image_size=192 IMAGE...` draws the same for any photo.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

from aa_flax.analysis import attention_maps  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.config.command_line import height_and_width, run  # noqa: E402
from aa_flax.data.photo import load_photo  # noqa: E402
from aa_flax.drawing.pooling_figures import COLORS, overlay, scaled_map  # noqa: E402
from aa_flax.json_values import to_json  # noqa: E402
from aa_flax.training import RunDirectory, functional, read_metrics  # noqa: E402
from aa_flax.training.trained import load_model  # noqa: E402

RUNS = {"single": "one token", "class": "a token for each class", "average": "the mean"}
_SHOWN = 320  # side of a photo in the picture
# All are CC BY 2.0 (COCO's licence 4); scaled, cropped and coloured here.
PHOTOS = {
    "train2017/000000000471.jpg": "http://farm1.staticflickr.com/48/124140140_1fcfaec779_z.jpg",
    "val2017/000000000285.jpg": "http://farm8.staticflickr.com/7434/9138147604_c6225224b8_z.jpg",
    "train2017/000000000626.jpg": "http://farm9.staticflickr.com/8375/8400337115_8321a7a7be_z.jpg",
    "val2017/000000002473.jpg": "http://farm5.staticflickr.com/4027/4377710907_7b97c2464d_z.jpg",
}


def define(values: flags.FlagValues) -> None:
    """Define the flags of the script."""
    flags.DEFINE_string("workdir", "runs/patchconvnet", "Folder of the run directories.", flag_values=values)
    flags.DEFINE_string("photos", None, "Folder with the photographs.", required=True, flag_values=values)
    size = "SIDE or HEIGHTxWIDTH in pixels at which the networks see the photographs."
    flags.DEFINE_string("image_size", "192", size, flag_values=values)
    flags.DEFINE_bool("write", False, "Store the JSON and the picture under experiments/results/.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Collect the results, draw the picture and print the outcome."""
    del argv
    finished = {name: RunDirectory(Path(values.workdir) / name) for name in RUNS}
    finished = {name: run for name, run in finished.items() if run.result_file.exists()}
    if not finished:
        raise SystemExit(f"{values.workdir} holds no finished run named {', '.join(RUNS)}")
    size = height_and_width("image_size", values.image_size)
    files = [Path(values.photos).expanduser() / name for name in PHOTOS]
    drawn = {name: look(run, files, size) for name, run in finished.items() if name != "average"}
    command = (
        f"python experiments/imagenette/{Path(__file__).name} --photos=FOLDER --image_size={values.image_size} --write"
    )
    outcome = {
        **provenance(command),
        "runs": {name: measured(name, run) for name, run in finished.items()},
        "photos": [{"file": name, "flickr_url": url, "licence": "CC BY 2.0"} for name, url in PHOTOS.items()],
        "seen": {name: [most_probable(run, one) for one in drawn[name][1]] for name, run in drawn_runs(finished)},
        "image_size": size[0] if size[0] == size[1] else size,
    }
    print(to_json(outcome, indent=1))
    folder = _ROOT / "experiments" / "results" if values.write else Path(values.workdir)
    (folder / "patchconvnet_attention.json").write_text(to_json(outcome, indent=1) + "\n")
    names = next(iter(finished.values())).read_preprocessing().class_names
    picture(files, drawn, names).savefig(folder / "patchconvnet_attention.png", dpi=80)


def drawn_runs(finished: dict[str, RunDirectory]) -> list[tuple[str, RunDirectory]]:
    """Return the runs whose pooling is attention."""
    return [(name, run) for name, run in finished.items() if name != "average"]


def measured(name: str, run: RunDirectory) -> dict[str, Any]:
    """Return the result of a run, and its held-out accuracy by epoch."""
    result = run.read_result()
    assert result is not None
    keys = ("params", "flops", "accuracy", "loss", "examples", "epochs", "seed", "train_seconds", "device", "jax")
    rows = [row for row in read_metrics(run.path / "metrics.jsonl") if row["split"] == "eval"]
    return {
        "command": f"python -m aa_flax.train --config=experiments/imagenette/patchconvnet.py:{name} "
        f"--workdir=runs/patchconvnet/{name} --config.data.source_dir=FOLDER",
        **{key: result[key] for key in keys},
        "held_out_accuracy": {row["epoch"]: row["accuracy"] for row in rows},
    }


def look(run: RunDirectory, files: list[Path], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (weights [photos, tokens, h, w], probabilities [photos, classes]) of a run for photographs."""
    model, _ = load_model(run)
    preprocessing = run.read_preprocessing()
    pixels = np.stack([load_photo(file, size, preprocessing.channels) for file in files])
    images = preprocessing.normalize(jnp.asarray(pixels))
    apply, params, batch_stats = functional(model)
    logits, _ = jax.jit(apply)(params, batch_stats, images)
    return np.asarray(attention_maps(model, images)["pooling"][:, 0]), np.asarray(jax.nn.softmax(logits))


def most_probable(run: RunDirectory, probabilities: np.ndarray) -> dict[str, float]:
    """Return the three most probable classes of a photo with their probabilities."""
    names = run.read_preprocessing().class_names
    return {names[k]: round(float(probabilities[k]), 3) for k in np.argsort(-probabilities)[:3]}


def picture(files: list[Path], drawn: dict[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]) -> Figure:
    """Return a figure with a column for each photo: the photo, then each run's attention, a colour for each class."""
    photos = [load_photo(file, (_SHOWN, _SHOWN), 3) for file in files]
    figure = Figure(figsize=(2.5 * len(files), 2.5 * (1 + len(drawn)) + 0.75 * len(drawn)), layout="constrained")
    grid = figure.subplots(1 + len(drawn), len(files), squeeze=False)
    for axes, photo in zip(grid[0], photos, strict=True):
        show(axes, photo)
    for line, (name, (weights, probabilities)) in zip(grid[1:], drawn.items(), strict=True):
        line[0].set_ylabel(RUNS[name], fontsize=10)
        for axes, photo, own, scores in zip(line, photos, weights, probabilities, strict=True):
            ranked = np.argsort(-scores)[: 1 if len(own) == 1 else 3]
            maps = np.stack([scaled_map(one, (_SHOWN, _SHOWN)) for one in (own if len(own) == 1 else own[ranked])])
            show(axes, overlay(photo, maps))
            labels = [f"{names[k]} {100 * scores[k]:.0f} %" for k in ranked]
            keys = [Patch(color=color, label=label) for color, label in zip(COLORS, labels, strict=False)]
            axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(-0.02, -0.01), frameon=False, fontsize=8)
    return figure


def show(axes: Axes, pixels: Any) -> None:
    """Show an image without frame or ticks."""
    axes.imshow(pixels)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    run(main, define, interrupted="interrupted")
