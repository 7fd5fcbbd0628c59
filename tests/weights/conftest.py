import functools

import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import to_torch_state_dict

# One block of each kind whose names differ, so that tests are quick.
SMALL = {
    "resnet18": dict(blocks=(2, 1, 1, 1), num_classes=7),
    "resnet50": dict(blocks=(1, 2, 1, 1), num_classes=7),
    "se_resnet50": dict(blocks=(1, 2, 1, 1), num_classes=7),
    "mnasnet_100": dict(width=0.25, num_classes=7),
}


def _random_state_dict(rng, model, source="timm"):
    state = {}
    for key, value in to_torch_state_dict(model, source=source).items():
        if key.endswith("running_var"):
            state[key] = rng.uniform(0.5, 1.5, value.shape)
        elif value.ndim == 1:
            state[key] = rng.normal(0.2, 0.5, value.shape)
        else:
            state[key] = rng.normal(size=value.shape) / np.sqrt(value[0].size)
        state[key] = state[key].astype(np.float32)
    return state


@pytest.fixture
def random_state_dict(rng):
    """Return a function that makes a random state dict under PyTorch's names for a network.

    Variances are positive; gates and norms are not neutral.
    """
    return functools.partial(_random_state_dict, rng)


@pytest.fixture(scope="session")
def small():
    """Return a small MnasNet, for tests of anything but its values, and a random state dict under timm's names."""
    model = create_model("mnasnet_100", image_size=(32, 48), **SMALL["mnasnet_100"], rngs=nnx.Rngs(0))
    return model, _random_state_dict(np.random.default_rng(7), model)


@pytest.fixture
def build():
    def make(name, **options):
        return create_model(name, **{"image_size": (32, 48), **SMALL.get(name, {}), **options}, rngs=nnx.Rngs(0))

    return make
