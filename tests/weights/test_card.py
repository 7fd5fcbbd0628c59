"""Tests of cards with nonsense in them, and of networks that no card describes."""

import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model, list_models, model_options
from aa_flax.weights import WeightsError, init_from_plain, load, load_torch_state_dict, save
from aa_flax.weights.arrays import flat_arrays
from aa_flax.weights.card import LAYERS

TINY = dict(depth=10, widen_factor=1)


@pytest.fixture
def model():
    return create_model("wide_resnet28_10", **TINY, num_classes=3, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save(create_model("wide_resnet28_10", **TINY, num_classes=3, rngs=nnx.Rngs(0)), file)
    return file, json.loads(file.with_suffix(".json").read_text())


NONSENSE = {
    "num_classes": ["many", None, -1, 2.5, True, 1e400, [3], 10**30],
    "image_size": [5, [32], [32, 0], ["a", "b"], None, [32, 32, 3], "32x32", [1.5, 2]],
    "in_channels": [0, "rgb", None, -3, 10**30],
    "model": [None, 3, ["wide_resnet28_10"], "", "wide resnet"],
    "options": [None, [], "depth", {"depth": "ten"}, {"depth": None}, {"depth": -2}, {"widen_factor": 1e400}],
    "sha256": [None, 7, "0" * 64],
    "format": [None, "1", 2, [1]],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in NONSENSE.items() for value in values])
def test_nonsense_in_a_field(saved, field, value):
    file, card = saved
    file.with_suffix(".json").write_text(json.dumps({**card, field: value}))
    with pytest.raises(WeightsError, match=r"w\.(json|safetensors): "):
        load(file)


def test_all_fields_that_are_wrong_are_named(saved):
    file, card = saved
    file.with_suffix(".json").write_text(json.dumps({**card, "num_classes": "many", "image_size": 5}))
    with pytest.raises(
        WeightsError, match=r"2 problems:\n  num_classes: expected a whole .* 'many'\n  image_size: exp.* 5$"
    ):
        load(file)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"3", b'"card"', b"{}", b"[" * 99999, b"\xff\xfe", b"{" + b'"a":' * 9, b"9" * 5000]
)
def test_what_is_no_card(saved, content):
    file, _ = saved
    file.with_suffix(".json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.json: (the card of w.safetensors is|not a card of format 1)"):
        load(file)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide_resnet28_10", dict(depth=1006, widen_factor=1)),
        ("wide_resnet28_10", dict(depth=10**15, widen_factor=1)),
        ("wide_resnet28_10", dict(depth=1e300, widen_factor=1)),
        ("resnet18", dict(blocks=[2, 10**12, 2, 2])),
        ("resnet50", dict(blocks=[900, 900, 900, 900])),
        ("patchconvnet_s60", dict(depth=10**12)),
        ("patchconvnet_s60_multi", dict(depth=5000)),
    ],
)
def test_a_network_of_a_huge_depth_is_refused_before_it_is_built(saved, monkeypatch, name, options):
    file, card = saved
    monkeypatch.setattr(nnx, "eval_shape", lambda _: pytest.fail("it was built"))
    file.with_suffix(".json").write_text(json.dumps({**card, "model": name, "options": options}))
    start = time.process_time()
    with pytest.raises(
        WeightsError, match=r"its card asks for (depth|blocks)=.*, and the file has arrays of 64 layers"
    ):
        load(file)
    assert time.process_time() - start < 1


def test_layers_are_counted_by_these_options_only():
    """An option that counts layers under another name would not be compared before a network is built."""
    names = {option for model in list_models() for option in model_options(model)}
    counting = {name for name in names if any(word in name for word in ("depth", "block", "layer", "repeat", "num_"))}
    others = {
        "key_depth",
        "min_key_depth_per_head",
        "num_heads",
        "pooling_layer_scale",
        "layer_scale_init",
        "depthwise",
    }
    assert counting - others == {*LAYERS}


@pytest.mark.parametrize(
    "head",
    {
        "without bias": lambda rngs: nnx.Linear(64, 3, use_bias=False, rngs=rngs),
        "two layers": lambda rngs: nnx.Sequential(nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)),
        "other width": lambda rngs: nnx.Linear(32, 3, rngs=rngs),
        "normed": lambda rngs: nnx.LayerNorm(64, rngs=rngs),
        "no arrays": lambda _: lambda x: x,
    }.values(),
    ids=lambda _: "",
)
def test_a_replaced_head_cannot_be_saved_and_starts_fresh(tmp_path, model, head):
    state = {path: np.asarray(value) + 1 for path, value in flat_arrays(model).items()}
    model.head = head(nnx.Rngs(1))
    with pytest.raises(
        WeightsError, match=r"w.safetensors: the network was changed since create_model built it:\n  head"
    ):
        save(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())
    if "head.kernel" in flat_arrays(model):
        return
    report = init_from_plain(model, state, source="aa_flax")
    own = {path for path in flat_arrays(model) if path.startswith("head.")}
    assert {*report.new} == own and {*report.unused} == {"head.kernel", "head.bias"}
    state = {path: np.asarray(value) + 1 for path, value in flat_arrays(model).items()}
    assert not init_from_plain(model, state, source="aa_flax").new  # from the same network


def test_a_linear_head_of_other_classes_is_described(tmp_path, model):
    model.head = nnx.Linear(64, 5, rngs=nnx.Rngs(1))
    save(model, tmp_path / "w.safetensors")
    again, card = load(tmp_path / "w.safetensors")
    assert card["num_classes"] == 5
    np.testing.assert_array_equal(again.head.kernel[...], model.head.kernel[...])


def test_other_changes_of_a_network_cannot_be_saved(tmp_path, model):
    model.stem = nnx.Conv(3, 16, (5, 5), use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(WeightsError, match=r"\n  stem.kernel: expected \(3, 3, 3, 16\), found \(5, 5, 3, 16\)$"):
        save(model, tmp_path / "w.safetensors")


def test_a_replaced_head_does_not_take_pytorchs(build, random_state_dict):
    model = build("mnasnet_100")
    state = random_state_dict(model)
    model.head = nnx.Sequential(nnx.Linear(1280, 3, rngs=nnx.Rngs(0)), jnp.tanh)
    with pytest.raises(WeightsError, match="head.layers.0.kernel: timm has no such layer"):
        load_torch_state_dict(model, state, source="timm")
    report = init_from_plain(model, state, source="timm")
    assert {*report.new} == {"head.layers.0.kernel", "head.layers.0.bias"}


def test_a_file_of_another_program_under_a_cards_name_is_not_overwritten(tmp_path, small):
    for text in ('{"precious": 1}', "[]", "notes", ""):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(WeightsError, match=r"run\.json: is there and is no card of weights"):
            save(small[0], tmp_path / "run.safetensors")
        assert (tmp_path / "run.json").read_text() == text and not (tmp_path / "run.safetensors").exists()
    (tmp_path / "run.json").unlink()
    for _ in range(2):  # a card of ours is replaced with its weights
        save(small[0], tmp_path / "run.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.json", "run.safetensors"]
