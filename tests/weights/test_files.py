import json

import forked
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from aa_flax.models import create_model
from aa_flax.models.factories import plain_conv
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.training import functional
from aa_flax.training.state import create_state
from aa_flax.weights import WeightsError, load, save
from aa_flax.weights.arrays import fill_arrays, flat_arrays

TINY = dict(depth=10, widen_factor=1)


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


def distinct(model, seed=3):
    """Give every array different values, so that a permutation fails the test."""
    rng = np.random.default_rng(seed)
    fill_arrays(model, {path: rng.normal(size=value.shape) for path, value in flat_arrays(model).items()})
    return arrays(model)


@pytest.mark.thorough
def test_twelve_equal_blocks_come_back_in_their_places(tmp_path):
    """Blocks keep their order in safetensors and checkpoints, which would sort integer keys 0, 1, 10, 11, 2, ..."""
    options = dict(blocks=(13, 1, 1, 1))
    model = create_model("resnet18", **options, num_classes=3, image_size=(32, 40), rngs=nnx.Rngs(0))
    before = distinct(model)
    save(model, tmp_path / "w.safetensors")
    again, card = load(tmp_path / "w.safetensors")
    after = arrays(again)
    assert after.keys() == before.keys() and "stage1.block13.conv2.kernel" in after
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)
    assert card["options"] == {"blocks": [13, 1, 1, 1]} and card["params"] == sum(
        value.size for path, value in before.items() if not path.endswith((".mean", ".var"))
    )
    assert again.image_size == (32, 40)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 40, 3)), jnp.float32)
    np.testing.assert_array_equal(again(x), model(x))

    import optax

    _, params, batch_stats = functional(model)
    state = create_state(params, batch_stats, optax.identity(), ema=False)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        _, other_params, other_stats = functional(create_model("resnet18", **options, num_classes=3, rngs=nnx.Rngs(1)))
        restored = checkpoints.restore(create_state(other_params, other_stats, optax.identity(), ema=False))
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    jax.tree.map(np.testing.assert_array_equal, restored.batch_stats, batch_stats)


@pytest.fixture
def saved(tmp_path):
    model = create_model("wide_resnet28_10", **TINY, num_classes=3, rngs=nnx.Rngs(0))
    save(model, tmp_path / "w.safetensors", origin={"run": "a test"})
    return tmp_path / "w.safetensors"


def test_files_that_do_not_belong_together(saved):
    content = safetensors.numpy.load_file(saved)
    card = saved.with_suffix(".json")
    text = card.read_text()
    changed = {**content, "head.bias": content["head.bias"] + 1}
    safetensors.numpy.save_file(changed, saved)
    with pytest.raises(WeightsError, match="the arrays are not those that its card describes"):
        load(saved)
    safetensors.numpy.save_file({key: value for key, value in content.items() if key != "head.bias"}, saved)
    with pytest.raises(WeightsError, match=r"head.bias: expected \(3,\), found nothing"):
        load(saved)
    safetensors.numpy.save_file(content, saved)
    load(saved)
    card.write_text(text.replace("wide_resnet28_10", "wide_resnet28_11"))
    with pytest.raises(WeightsError, match="its card describes no network .*did you mean 'wide_resnet28_10'"):
        load(saved)
    card.write_text(json.dumps({"format": 1}))
    with pytest.raises(WeightsError, match="not a card of format 1; missing: image_size, in_channels, model"):
        load(saved)
    card.unlink()
    with pytest.raises(WeightsError, match="the card of w.safetensors is missing, and none is in its header"):
        load(saved)
    card.write_text(text)
    saved.write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load(saved)


@pytest.mark.thorough
def test_options_without_arrays_come_back_too(tmp_path, rng):
    """GALA's squashing has no parameters, so only the card records it."""
    options = dict(blocks=[1, 1, 1, 1], num_classes=3, image_size=(32, 32), squash="sigmoid")
    model = create_model("gala_resnet18", **options, rngs=nnx.Rngs(0))
    save(model, tmp_path / "deep" / "w.safetensors")
    again, card = load(tmp_path / "deep" / "w.safetensors")
    assert card["options"] == {"blocks": [1, 1, 1, 1], "squash": "sigmoid"} and again.built_from == model.built_from
    x = jnp.asarray(rng.normal(size=(1, 32, 32, 3)), jnp.float32)
    np.testing.assert_array_equal(again(x), model(x))


def test_what_cannot_be_saved(tmp_path):
    model = create_model("wide_resnet28_10", **TINY, num_classes=3, rngs=nnx.Rngs(0))
    with pytest.raises(WeightsError, match="expected a name that ends in .safetensors"):
        save(model, tmp_path / "w.npz")
    with pytest.raises(WeightsError, match="a network of create_model can be saved, got a Linear of its own"):
        save(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="its options or origin are no plain values"):
        own = create_model("wide_resnet28_10", **TINY, conv=plain_conv, rngs=nnx.Rngs(0))
        save(own, tmp_path / "w.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        save(model, tmp_path / "file" / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.thorough
def test_command_line(tmp_path, build, random_state_dict):
    """Import and export run in processes of their own with the full SE-ResNet-18; wrong calls print one line."""
    theirs = random_state_dict(build("se_resnet18", image_size=(224, 224)))
    safetensors.numpy.save_file(theirs, tmp_path / "theirs.safetensors")

    def command(*arguments):
        return forked.run("-m", "aa_flax.weights", *arguments, cwd=tmp_path)

    done = command("import", "--model=se_resnet18", "--source=timm", "theirs.safetensors", "ours.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "se_resnet18: ours.safetensors and ours.json\n"
    card = json.loads((tmp_path / "ours.json").read_text())
    assert (card["model"], card["origin"]["source"], card["origin"]["file"]) == (
        "se_resnet18",
        "timm",
        "theirs.safetensors",
    )
    done = command("export", "--source=timm", "ours.safetensors", "back.safetensors")
    assert done.returncode == 0, done.stderr
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value)
    done = command(
        "import", "--model=aa_resnet18", "--source=timm", "--from_plain", "theirs.safetensors", "aa.safetensors"
    )
    assert done.returncode == 0 and "new      stage2.block1.conv1.rel_height" in done.stdout, done.stderr
    assert "unused   layer1.0.se.fc1.weight" in done.stdout
    assert "stage4.block2.conv1.out.kernel" in json.loads((tmp_path / "aa.json").read_text())["origin"]["new"]
    for arguments, message in (
        (["import", "--model=se_resnet18", "--source=timm", "theirs.safetensors", "theirs.safetensors"], "overwrite"),
        (["export", "--source=timm", "--model=resnet18", "ours.safetensors", "x.safetensors"], "takes no --model"),
        (["inport", "--source=timm", "a", "b"], "expected import or export, a file to read"),
        (["import", "--model=resnet18", "a", "b.safetensors"], "import needs --source"),
        (["import", "--model=resnet18", "--options=kappa", "--source=timm", "a", "b.safetensors"], "a JSON object"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = command("import", "--model=resnet34", "--source=timm", "theirs.safetensors", "other.safetensors")
    assert done.returncode == 2 and done.stderr.startswith("error: timm's weights do not fit this ResNet; ")
    assert "layer1.2.conv1.weight: missing" in done.stderr and not (tmp_path / "other.safetensors").exists()
