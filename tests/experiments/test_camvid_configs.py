"""Tests of the configs of CamVid, which need no data."""

import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from flax import nnx

from aa_flax.analysis.programs import of_config
from aa_flax.tasks import make_task
from aa_flax.training import resolve
from aa_flax.training.initial import build_model

sys.path.insert(0, str(Path(__file__).parent))
from test_configs import docstring, load

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FILE = "experiments/camvid/camvid.py"


@pytest.mark.few
@pytest.mark.parametrize("network", ["plain", "aa", "patchconvnet"])
def test_networks_have_the_parameters_that_their_file_says(network):
    config = resolve(load(f"{FILE}:{network}"))
    subject = of_config(config)
    assert subject.epoch_steps == 45 and config.label and config.task.name == "segmentation"
    model = nnx.eval_shape(lambda: build_model(config, make_task(config, subject.preprocessing)))
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert f"{params:,} ({network})" in docstring(FILE) or f"{params:,} parameters ({network})" in docstring(FILE)


def test_another_network_is_an_error_with_its_name():
    with pytest.raises(flags.IllegalFlagValueError, match="camvid.py knows plain, aa, patchconvnet, not 'se'"):
        load(f"{FILE}:se")
