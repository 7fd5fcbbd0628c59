"""Tests of weights that a run starts from: of another run, of the folder of a hub."""

import numpy as np
import pytest
from flax import nnx

import aa_flax
from aa_flax.models import create_model
from aa_flax.runs.directory import RunDirectory
from aa_flax.training import ConfigError, resolve
from aa_flax.training.first_weights import first_weights, take_weights
from aa_flax.training.trained import load_model
from aa_flax.weights import WeightsError
from aa_flax.weights.arrays import flat_arrays


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


def config_from(place, **fields):
    return resolve({"model": {"name": "resnet18", "init_from": str(place), **fields}})


@pytest.mark.thorough
def test_the_folder_of_a_hub_whose_arrays_have_the_names_of_timm(tmp_path):
    given = create_model("resnet18", num_classes=3, rngs=nnx.Rngs(1))
    folder = aa_flax.hub.save(given, tmp_path / "hub")
    state = first_weights(str(folder))
    assert "layer1.0.conv1.weight" in state and state.card["key_names"] == "timm"
    model = create_model("resnet18", num_classes=5, rngs=nnx.Rngs(2))
    report = take_weights(model, config_from(folder))
    assert {*report.new} == {"head.kernel", "head.bias"}
    before, after = arrays(given), arrays(model)
    assert all((before[path] == after[path]).all() for path in before if not path.startswith("head."))


@pytest.mark.thorough
def test_a_run(straight):
    trained, step = load_model(RunDirectory(straight))
    state = first_weights(str(straight))
    assert state.notes == (f"step {step} of the run {straight}",)
    for path, value in arrays(trained).items():  # the averaged ones
        np.testing.assert_array_equal(state[path], value)
    recorded = RunDirectory(straight).read_config().model
    config = config_from(straight, name=recorded.name, options=recorded.options, init_key="best")
    model = nnx.clone(trained)
    report = take_weights(model, config, ["other"] * len(state.card["origin"]["names"]))
    assert {*report.new} == {"head.kernel", "head.bias"} and str(straight) in str(report)
    with pytest.raises(WeightsError, match="'newest' names no checkpoint of a run; expected last, best or a step"):
        first_weights(str(straight), "newest")
    with pytest.raises(ConfigError, match="'model.init_from': .*no checkpoint"):
        take_weights(model, config_from(straight, init_key="977"))


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="a folder; name the file of weights in it"):
        first_weights(str(tmp_path))
