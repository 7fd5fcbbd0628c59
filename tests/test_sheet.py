import os
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image

from aa_flax.data.array_source import ArraySource
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.data.train_sizes import size_of_step
from aa_flax.tasks import make_task
from aa_flax.training import resolve

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def parts(rng):
    """Return the preprocessing of 6 × 8 images, and a source of five."""
    preprocessing = Preprocessing((6, 8), 3, MEAN, STD, ("ant", "bee"), "float32", "")
    return preprocessing, ArraySource("toy", rng.integers(0, 256, (5, 6, 8, 3), np.uint8), {"label": np.arange(5) % 2})


def augmented(config, preprocessing, source, columns):
    from aa_flax.sheet import augmented

    config = resolve({"data": {"flip": False, "crop": "none", **config}})
    return np.asarray(augmented(config, make_task(config, preprocessing), preprocessing, source, columns)[0])


def test_without_augmentation_every_draw_is_the_image(parts):
    preprocessing, source = parts
    drawn = augmented({}, preprocessing, source, 3)
    assert drawn.shape == (3, 5, 6, 8, 3)
    for row, example in enumerate(source):
        np.testing.assert_allclose(
            drawn[:, row], np.stack([example["image"]] * 3), atol=1e-3
        )  # float32 rounds in both directions


def test_what_the_step_does_is_drawn(parts):
    preprocessing, source = parts
    originals = np.stack([example["image"] for example in source]).astype(float)
    flips = augmented({"flip": True}, preprocessing, source, 12)
    as_is = np.abs(flips - originals).max((2, 3, 4)) < 0.01
    mirrored = np.abs(flips - originals[:, :, ::-1]).max((2, 3, 4)) < 0.01
    assert (as_is | mirrored).all() and as_is.any() and mirrored.any()
    # Cutout sets its square to the mean.
    holes = np.abs(augmented({"cutout": 4}, preprocessing, source, 6) - 255 * np.asarray(MEAN)).max(-1) < 0.01
    assert holes.any((2, 3)).all() and not holes.all()
    crops = augmented({"crop": "resized", "image_size": 6}, preprocessing, source, 4)
    assert len(np.unique(crops[:, 0].round(3), axis=0)) == 4


def test_draws_have_the_sizes_of_their_steps(parts):
    from aa_flax.sheet import augmented

    preprocessing, source = parts
    sizes = ((6, 8), (4, 4))
    config = resolve({"data": {"crop": "resized", "image_size": (6, 8), "train_sizes": sizes}})
    draws, _ = augmented(config, make_task(config, preprocessing), preprocessing, source, 6)
    assert [column[0].shape[:2] for column in draws] == [size_of_step(sizes, 0, step) for step in range(6)]
    assert {column[4].shape[:2] for column in draws} == {*sizes}


def test_titles_are_cut_between_words():
    from aa_flax.sheet import one_line

    assert one_line("12 RBC, 1 WBC", 24) == "12 RBC, 1 WBC"
    assert one_line("12 RBC, 3 Platelets, 1 WBC", 24) == "12 RBC, 3 Platelets, 1 \N{HORIZONTAL ELLIPSIS}"
    assert len(one_line("x" * 90, 24)) <= 24 and one_line("", 24) == ""


def test_colours_have_a_key(rng, tmp_path, monkeypatch):
    """A task that marks things in pictures says what the colours mean; names are shown as they are written."""
    from aa_flax import sheet

    class Marking:
        def title(self, example):
            return "$x$"

        def mark(self, axes, example):
            axes.plot([0, 2], [0, 2], color="red")

        def key(self, examples):
            assert len(examples) == 2 * 3
            return [("$a$", (1.0, 0.0, 0.0)), ("b", (0.0, 0.0, 1.0))]

    texts = []
    monkeypatch.setattr(
        sheet, "saved", lambda figure, file, dpi: texts.extend(each.get_text() for each in figure.texts)
    )
    originals = [{"image": rng.integers(0, 256, (5, 7, 3), np.uint8)} for _ in range(2)]
    draws = [[rng.uniform(0, 255, (5, 9, 3)) for _ in range(2)] for _ in range(2)]
    sheet.draw(originals, draws, [[{}, {}], [{}, {}]], Marking(), tmp_path / "x.png")
    assert len(texts) == 4 and all("x" in text for text in texts[:2]) and "b" in texts[3]


@pytest.mark.few
@pytest.mark.parametrize("arguments", [["--rows=3", "--columns=2"], []])
def test_command(tmp_path, arguments):
    def command(*extra):
        command = ["-m", "aa_flax.sheet", f"--config={ROOT}/experiments/quickstart.py", *arguments, *extra]
        return forked.run(*command, environment={**os.environ, "TFDS_DATA_DIR": str(tmp_path)})

    file = tmp_path / "sheet.png"
    done = command(f"--out={file}")
    assert done.returncode == 0, done.stderr
    expected = (
        "3 examples of aa_fashion_mnist_subset[train], 2" if arguments else "8 examples of aa_fashion_mnist_subset"
    )
    assert done.stdout.startswith(f"{file}: {expected}")
    with Image.open(file) as image:
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 10
    wrong, words = (
        ("--config.data.crop=resized", "needs 'data.image_size'") if arguments else ("--out=x.jpg", "ends in .png")
    )
    failed = command(wrong)
    assert (failed.returncode, failed.stdout) == (2, "") and words in failed.stderr.splitlines()[-1]
