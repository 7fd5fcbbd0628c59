import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import WeightsError, init_from_plain, load_torch_state_dict, to_torch_state_dict
from aa_flax.weights.arrays import flat_arrays

from . import torch_named
from .conftest import SMALL

NETWORKS = {name: torch_named.semnasnet if "mnasnet" in name else torch_named.resnet for name in SMALL}

# Number of arrays, and SHA-256 over "name shape" lines, of the state dicts of timm 1.0.31 and torchvision 0.29.2
# without num_batches_tracked, read on 2026-11-21.
THEIR_KEYS = {
    ("resnet18", "torchvision"): (102, "2bb53b15765c4651"),
    ("resnet34", "torchvision"): (182, "b945021fb00b779b"),
    ("resnet50", "torchvision"): (267, "cf11dad974eadeaa"),
    ("resnet101", "torchvision"): (522, "d916ed2068e1af5d"),
    ("resnet152", "torchvision"): (777, "2fe195791c8ffb5f"),
    ("resnet34", "timm"): (182, "b945021fb00b779b"),
    ("resnet50", "timm"): (267, "cf11dad974eadeaa"),
    ("se_resnet50", "timm"): (331, "c443b87a0500ffa3"),
    ("mnasnet_075", "timm"): (279, "756e4b5b27e0ddc0"),
    ("mnasnet_100", "timm"): (279, "fa67c0998910515a"),
    ("mnasnet_140", "timm"): (279, "cedc9c13a63cf4d6"),
}


@pytest.mark.few(1, thorough=6)
@pytest.mark.parametrize(("name", "source"), THEIR_KEYS)
def test_names_and_shapes_are_those_of_the_pytorch_networks(name, source):
    model = create_model(name, rngs=nnx.Rngs(0))
    lines = [f"{key} {value.shape}" for key, value in sorted(to_torch_state_dict(model, source=source).items())]
    found = len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert found == THEIR_KEYS[name, source]


def logits(model, x):
    graph, state = nnx.split(model)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s, copy=True)(x))(state, x))


@pytest.mark.few
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", SMALL)
def test_logits_equal_those_of_the_pytorch_network(rng, build, random_state_dict, name, backend):
    """float32 errors after twenty layers are well below 1e-4; a swapped axis causes errors of order one."""
    torch = pytest.importorskip("torch") if backend == "torch" else None
    model = build(name)
    state = random_state_dict(model)
    load_torch_state_dict(model, {**state, "bn1.num_batches_tracked": np.int64(3)}, source="timm")
    for size in ((2, 37, 48), (1, 32, 32)):
        x = rng.normal(size=(*size, 3)).astype(np.float32)
        if torch is None:
            as_given = {key: value.astype(np.float64) for key, value in state.items()}
            want = NETWORKS[name](as_given, x.transpose(0, 3, 1, 2).astype(np.float64), torch_named.NumpyBackend())
        else:
            as_given = {key: torch.from_numpy(value) for key, value in state.items()}
            pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            want = NETWORKS[name](as_given, pixels, torch_named.TorchBackend()).numpy()
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(logits(model, jnp.asarray(x)), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    ("ours", "theirs", "source"),
    [
        ("resnet34", "resnet34", "torchvision"),
        ("resnet50", "resnet50", "timm"),
        ("se_resnet50", "seresnet50", "timm"),
        ("mnasnet_075", "semnasnet_075", "timm"),
        ("mnasnet_100", "semnasnet_100", "timm"),
    ],
)
def test_logits_equal_those_of_the_libraries_themselves(rng, ours, theirs, source):
    torch, library = pytest.importorskip("torch"), pytest.importorskip(source)
    network = library.create_model(theirs) if source == "timm" else getattr(library.models, theirs)(weights=None)
    for key, value in network.eval().state_dict().items():
        if key.endswith("running_var"):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif value.ndim == 1:
            value.add_(0.2 * torch.randn(value.shape))
    model = nnx.eval_shape(lambda: create_model(ours, rngs=nnx.Rngs(0)))
    load_torch_state_dict(model, network.state_dict(), source=source)
    x = rng.normal(size=(1, 97, 64, 3)).astype(np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    np.testing.assert_allclose(logits(model, jnp.asarray(x)), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.few
@pytest.mark.parametrize("name", SMALL)
def test_there_and_back(build, random_state_dict, name):
    model = build(name)
    state = random_state_dict(model)
    load_torch_state_dict(model, state, source="timm")
    back = to_torch_state_dict(model, source="timm")
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


def test_one_error_lists_everything(build, random_state_dict):
    model = build("resnet18")
    before = to_torch_state_dict(model, source="timm")
    state = random_state_dict(model)
    del state["layer1.1.conv2.weight"], state["fc.bias"]
    state["fc.weight"] = np.zeros((1000, 512), np.float32)
    state["layer5.0.conv1.weight"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as error:
        load_torch_state_dict(model, state, source="timm")
    lines = str(error.value).split("\n  ")
    assert lines[0] == "timm's weights do not fit this ResNet; 4 problems:"
    assert sorted(lines[1:]) == [
        "fc.bias: missing (for head.bias)",
        "fc.weight: shape (1000, 512), expected (7, 512) (for head.kernel)",
        "layer1.1.conv2.weight: missing (for stage1.block2.conv2.kernel)",
        "layer5.0.conv1.weight: the network has no such array",
    ]
    for key, value in to_torch_state_dict(model, source="timm").items():
        np.testing.assert_array_equal(value, before[key])  # nothing was changed


def test_what_has_no_table(build):
    with pytest.raises(WeightsError, match="no key table for ResNet from 'keras'; sources: 'timm', 'torchvision'"):
        load_torch_state_dict(build("resnet18"), {}, source="keras")
    with pytest.raises(WeightsError, match="no key table for WideResNet from 'timm'; sources: none"):
        load_torch_state_dict(build("wide_resnet28_10", depth=10, widen_factor=1), {}, source="timm")
    with pytest.raises(WeightsError, match="no key table for Linear; known: ResNet"):
        load_torch_state_dict(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), {}, source="timm")
    augmented = build("aa_resnet18", blocks=(1, 1, 1, 1), num_heads=2)
    with pytest.raises(WeightsError, match=r"stage2.block1.conv1.qkv.kernel: timm has no such layer"):
        to_torch_state_dict(augmented, source="timm")


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_array(build, random_state_dict):
    model = build("resnet18")
    state = {**random_state_dict(model), "fc.bias": "text", "fc.weight": np.zeros((7, 512), np.int32)}
    with pytest.raises(WeightsError, match=r"2 problems:\n  fc.bias: has dtype <U4.*\n  fc.weight: has dtype int32"):
        load_torch_state_dict(model, state, source="timm")
    state = random_state_dict(model)
    state["bn1.weight"][3] = np.nan
    with pytest.raises(WeightsError, match=r"1 problems:\n  bn1.weight: holds infinity or NaN"):
        load_torch_state_dict(model, state, source="timm")
    with pytest.raises(WeightsError, match="must map names to arrays, got str; read_state_dict"):
        load_torch_state_dict(model, "resnet18.safetensors", source="timm")


@pytest.mark.few(2)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_wrappers_put_before_every_name_is_taken_off(build, random_state_dict, prefix):
    model = build("resnet18")
    state = random_state_dict(model)
    load_torch_state_dict(model, {prefix + key: value for key, value in state.items()}, source="timm")
    np.testing.assert_array_equal(model.stem.kernel[...], state["conv1.weight"].transpose(2, 3, 1, 0))


def test_tensors_of_a_live_network_serve(build, random_state_dict):
    torch = pytest.importorskip("torch")
    model = build("resnet18")
    state = {key: torch.from_numpy(value) for key, value in random_state_dict(model).items()}
    state["conv1.weight"] = torch.nn.Parameter(state["conv1.weight"].to(torch.bfloat16))
    load_torch_state_dict(model, state, source="timm")
    expected = state["conv1.weight"].detach().float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.stem.kernel[...], expected)


def test_the_error_guesses_why_nothing_fits(build, random_state_dict):
    model = build("resnet18")
    state = random_state_dict(model)
    ours = {path: np.asarray(value) for path, value in flat_arrays(model).items()}
    with pytest.raises(WeightsError, match="these look like the names of source='aa_flax'; 144 problems"):
        load_torch_state_dict(model, ours, source="timm")
    with pytest.raises(WeightsError, match="these look like the names of source='timm'; "):
        init_from_plain(model, state, source="aa_flax")
    augmented = build("aa_resnet18", blocks=(2, 1, 1, 1), num_classes=7, num_heads=2)
    with pytest.raises(WeightsError, match="init_from_plain starts an augmented network from a plain one's weights"):
        load_torch_state_dict(augmented, state, source="timm")
