"""What a trained network says, wherever it lies and whoever asks: run, file, folder of a hub; Python, the command."""

import dataclasses
import json
import sys

import numpy as np
from absl import flags

import aa_flax
from aa_flax import hub, predict


def assert_says_the_same_everywhere(workdir, photos, folder, monkeypatch, **display):
    """Return what the run's network says about photographs, after all others have said it with the same bits.

    Args:
        workdir: the directory of the run.
        photos: names of files.
        folder: for the files of this test.
        monkeypatch: pytest's.
        display: options of what is shown.
    """
    of_run = aa_flax.load(workdir)
    said = of_run(photos, **display)
    places = [hub.save(of_run, folder / "hub"), folder / "weights.safetensors"]
    of_run.save(places[1])
    for place in places:
        again = aa_flax.load(place)
        assert again.about.preprocessing == of_run.about.preprocessing and again.display == of_run.display
        for ours, theirs in zip(said, again(photos, **display), strict=True):
            assert_same(ours.prediction, theirs.prediction)
    for number, place in enumerate([workdir, *places]):
        file = folder / f"{number}.json"
        options = [f"--{name}={value}" for name, value in display.items()]
        argv = ["predict", f"--workdir={place}", f"--json={file}", *options, *photos]
        monkeypatch.setattr(sys, "argv", argv)
        values = flags.FlagValues()
        predict.define(values)
        assert predict.main(values(argv), values) == 0
        assert json.loads(file.read_text()) == {photo: each.values for photo, each in zip(photos, said, strict=True)}
    return said


def assert_same(ours, theirs):
    """Check that two predictions have the same bits."""
    if dataclasses.is_dataclass(ours):
        for field in dataclasses.fields(ours):
            assert_same(getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(ours, tuple):
        assert ours == theirs
    else:
        np.testing.assert_array_equal(ours, theirs)


def assert_draws_itself(said, folder):
    """Check that a result is a picture, in a file and in a notebook."""
    picture = said.draw(folder / "drawn.png")
    assert (folder / "drawn.png").read_bytes()[:4] == said._repr_png_()[:4] == b"\x89PNG"
    assert min(picture.size) > 100 and "data:image/png;base64," in said._repr_html_()
