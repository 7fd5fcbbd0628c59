"""Tests of the solids that code draws, and of the configs of signals and volumes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from aa_flax.config.schema import resolve
from aa_flax.data import load
from aa_flax.data.facts import FACTS
from aa_flax.data.preprocessing import preprocessing_for, preprocessing_without_data

ROOT = Path(__file__).parents[2] / "experiments"


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def solids():
    return module(ROOT / "solids" / "make_solids.py")


def test_turns_are_rotations(solids, rng):
    for _ in range(5):
        turn = solids.turned(rng)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_solids_fit_in_the_ball_around_them_and_have_their_volumes(solids):
    axis = (np.arange(100) + 0.5) / 50 - 1
    points = np.meshgrid(axis, axis, axis, indexing="ij")
    volumes = {}
    for name, inside in solids.SOLIDS.items():
        found = inside(*points)
        assert np.sqrt(sum(each[found] ** 2 for each in points)).max() < 1.03
        volumes[name] = found.mean() * 8
    by_formula = {
        "sphere": 4 / 3 * np.pi * 0.8**3,
        "cube": (2 * 3**-0.5) ** 3,
        "cylinder": np.pi * 0.45**2 * 1.78,
        "cone": np.pi / 3 * (0.375 * 1.65) ** 2 * 1.65,
        "torus": 2 * np.pi**2 * 0.7 * 0.28**2,
        "octahedron": 4 / 3,
    }
    for name, volume in by_formula.items():
        assert volumes[name] == pytest.approx(volume, rel=0.03), name


def test_made_volumes_are_the_same_again_and_load(solids, tmp_path):
    for folder in ("one", "two"):
        solids.make(tmp_path / folder, {"train": 2, "test": 1}, seed=3)
    one, two = (np.load(tmp_path / folder / "train.npz") for folder in ("one", "two"))
    np.testing.assert_array_equal(one["signal"], two["signal"])
    dataset = load("arrays/solids", data_dir=tmp_path / "tfds", source_dir=tmp_path / "one")
    assert dataset.class_names == (*solids.SOLIDS,) and dataset.splits == {"train": 12, "test": 6}
    config = resolve(module(ROOT / "solids" / "aa_wide_resnet.py").get_config())
    found, planned = preprocessing_for(config, dataset), preprocessing_without_data(config, FACTS[config.data.name])
    for name in ("image_size", "channels", "of_signals", "padded", "num_classes"):
        assert getattr(found, name) == getattr(planned, name)


@pytest.mark.parametrize("variant", ["aa", "plain"])
@pytest.mark.parametrize("file", ["solids/aa_wide_resnet.py", "speech/japanese_vowels.py"])
def test_configs_resolve(file, variant):
    config = resolve(module(ROOT / file).get_config(variant))
    assert config.model.name.startswith("aa_") == (variant == "aa") and config.data.name in FACTS
    with pytest.raises(ValueError, match="knows the variants aa and plain"):
        module(ROOT / file).get_config("se")
