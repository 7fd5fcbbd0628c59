"""Classify image files with a trained run: `python -m aa_flax.predict --workdir=DIR IMAGE...`.

Needs the run directory alone. How a file of another size, colour or depth is treated: `aa_flax.evaluation.photo`.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

from aa_flax.evaluation.photo import PhotoError, load_photo
from aa_flax.training.flags import fail, run
from aa_flax.training.pure import functional
from aa_flax.training.run_directory import RunDirectory, RunDirectoryError

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of a trained network.", required=True)
_TOP = flags.DEFINE_integer("top", 5, "How many classes to print for each image.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Print the most probable classes of each file; status 1 if some file could not be read."""
    files = argv[1:]
    if not files:
        fail("no image given: python -m aa_flax.predict --workdir=DIR IMAGE...")
    directory = RunDirectory(Path(_WORKDIR.value))
    directory.read_config()
    preprocessing = directory.read_preprocessing()
    photos, errors = {}, {}
    for file in files:
        try:
            photos[file] = load_photo(file, preprocessing.image_size, preprocessing.channels)
        except PhotoError as error:
            errors[file] = error
    if photos:
        model, _ = directory.load_model()
        apply, params, batch_stats = functional(model)

        @jax.jit
        def probabilities(image: jax.Array) -> jax.Array:
            logits, _ = apply(params, batch_stats, preprocessing.normalize(image))
            return jax.nn.softmax(logits.astype(jax.numpy.float32))[0]

    for file in files:
        if file in errors:
            print(f"error: {errors[file]}", file=sys.stderr)
            continue
        scores = np.asarray(probabilities(photos[file][None]))
        print(file)
        for label in np.argsort(-scores)[: _TOP.value]:
            print(f"  {100 * scores[label]:6.2f} %  {preprocessing.class_names[label]}")
    return 1 if errors else 0


if __name__ == "__main__":
    run(main, expected=(RunDirectoryError,))
