"""Tests of a run that starts from weights in a file and freezes parts of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.runs.directory import RunDirectory
from aa_flax.tasks import make_task
from aa_flax.training import ConfigError, default_config, functional, resolve, train
from aa_flax.training.first_weights import take_weights
from aa_flax.training.freezing import freeze_statistics, leave_frozen, mask, stop_gradients
from aa_flax.training.initial import build_model
from aa_flax.training.trained import load_model
from aa_flax.weights import save
from aa_flax.weights.arrays import fill_arrays, flat_arrays

TINY = dict(depth=10, widen_factor=1)
FROZEN = ("stem", "stage1", "stage2.block1.conv2")


def arrays(model):
    return {path: np.asarray(value) for path, value in flat_arrays(model).items()}


def is_frozen(path):
    return any(path.startswith(f"{prefix}.") for prefix in FROZEN)


@pytest.fixture
def config(tmp_path, data_dir):
    """Return a config for 64 embedded images that starts from a file of a plain network.

    The network has another number of classes, and all its arrays differ from initial ones.
    """
    plain = create_model("wide_resnet28_10", **TINY, num_classes=3, in_channels=1, rngs=nnx.Rngs(5))
    rng = np.random.default_rng(5)
    fill_arrays(plain, {p: rng.uniform(0.05, 0.2, v.shape) for p, v in flat_arrays(plain).items()})
    save(plain, tmp_path / "plain.safetensors")
    config = default_config()
    config.epochs = 1
    config.batch_size = config.eval_batch_size = 16
    config.data.train_split, config.data.eval_split = "train[:64]", "test[:16]"
    config.data.num_threads = 1
    config.data.data_dir, config.data.image_size, config.data.crop_padding = data_dir, 8, 1
    config.model.options = dict(**TINY, num_heads=2, kappa=0.25, upsilon=0.25, min_key_depth_per_head=4)
    config.model.init_from = str(tmp_path / "plain.safetensors")
    config.model.frozen = FROZEN
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = 0.0
    return config


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_frozen_parts_stay_bit_for_bit_and_the_rest_learns(config, tmp_path, optimizer):
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = 1e-3
    config.optimizer.ema_decay = 0.5
    workdir = tmp_path / "run"
    train(resolve(config), workdir)
    directory = RunDirectory(workdir)
    start = build_model(resolve(config), make_task(resolve(config), directory.read_preprocessing()))
    fresh = arrays(start)
    take_weights(start, resolve(config))
    before, after = arrays(start), arrays(load_model(directory)[0])
    for path, value in after.items():
        assert (value == before[path]).all() == is_frozen(path), path
    # Training started from the weights of the file.
    assert (before["stage1.block1.conv2.kernel"] != fresh["stage1.block1.conv2.kernel"]).all()
    report = (workdir / "initial_weights.txt").read_text()
    assert "stage1.block1.conv1.qkv.kernel" in report and "new      head.kernel" in report
    # The same command again does not need the file and does not start from it again.
    (tmp_path / "plain.safetensors").unlink()
    assert train(resolve(config), workdir).finished


def test_a_frozen_part_gets_no_gradient_and_its_batch_norm_uses_what_it_has(rng):
    model = create_model("wide_resnet28_10", **TINY, num_classes=5, image_size=(8, 8), rngs=nnx.Rngs(0))
    freeze_statistics(model, FROZEN)
    apply, params, batch_stats = functional(model)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)

    def loss(params):
        logits, stats = apply(stop_gradients(params, FROZEN), batch_stats, x, train=True)
        return -jax.nn.log_softmax(logits)[:, 3].mean(), stats

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = ".".join(part.key for part in path)
        assert (np.abs(gradient).max() == 0) == is_frozen(name), name
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(batch_stats), jax.tree.leaves(stats), strict=True):
        name = ".".join(part.key for part in path)
        assert (np.asarray(old) == np.asarray(new)).all() == is_frozen(name), name
    # Frozen parameters get no update, whatever the chain before returns.
    chain = leave_frozen(optax.identity(), FROZEN)
    updates, _ = chain.update(jax.tree.map(jnp.ones_like, params), chain.init(params))
    jax.tree.map(
        lambda u, constant: np.testing.assert_array_equal(u, 0 if constant else 1), updates, mask(params, FROZEN)
    )


def test_a_file_may_be_of_a_part(config):
    """The weights of a classifier initialise the backbone of a network that is no classifier."""

    class Detector(nnx.Module):
        def __init__(self):
            self.backbone = create_model("wide_resnet28_10", **TINY, num_classes=0, in_channels=1, rngs=nnx.Rngs(1))

    model = Detector()
    config.model.init_part = "backbone"
    report = take_weights(model, resolve(config))
    assert sorted(report.loaded) == sorted(arrays(model)) and set(report.unused) == {"head.kernel", "head.bias"}
    assert all(value.min() >= 0.05 and value.max() <= 0.2 for value in arrays(model).values())
    config.model.init_part = "neck"
    with pytest.raises(
        ConfigError, match="'model.init_from': init_part: Detector has no part 'neck'; its parts: backb"
    ):
        take_weights(model, resolve(config))


@pytest.mark.few(2)
@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("bee", "ant", "cat"), ("x", "y", "z"), ()])
def test_a_layer_for_other_classes_starts_anew_though_they_are_as_many(config, tmp_path, names):
    """Names on the card decide where there are any, and not only their number."""
    given = create_model("wide_resnet28_10", **TINY, num_classes=3, in_channels=1, rngs=nnx.Rngs(6))
    save(given, tmp_path / "named.safetensors", origin={"names": ["ant", "bee", "cat"]})
    config.model.init_from = str(tmp_path / "named.safetensors")
    model = create_model("wide_resnet28_10", **TINY, num_classes=3, in_channels=1, rngs=nnx.Rngs(7))
    report = take_weights(model, resolve(config), names)
    anew = names not in (("ant", "bee", "cat"), ())
    assert ({"head.kernel", "head.bias"} <= {*report.new}) == anew and len(report.loaded) > 20
    assert (arrays(model)["head.kernel"] == arrays(given)["head.kernel"]).all() != anew
    assert (arrays(model)["stem.kernel"] == arrays(given)["stem.kernel"]).all()


def test_mistakes_end_before_anything_is_compiled(config, tmp_path):
    config.model.frozen = ("stage5",)
    with pytest.raises(ConfigError, match="frozen names no part of the network: 'stage5'; its parts: .*stage1"):
        train(resolve(config), tmp_path / "run")
    config.model.frozen = ("stem", "stage1", "stage2", "stage3", "bn", "head")
    with pytest.raises(ConfigError, match="frozen names the whole network, so that nothing would learn"):
        train(resolve(config), tmp_path / "run")
    config.model.frozen = ()
    config.model.init_from = str(tmp_path / "nothing.safetensors")
    with pytest.raises(ConfigError, match="'model.init_from': .*nothing.safetensors: no such file"):
        train(resolve(config), tmp_path / "run")
    config.model.init_from = str(tmp_path / "plain.safetensors")
    config.model.init_source = "timm"
    with pytest.raises(ConfigError, match="'model.init_from': there is no key table for WideResNet from 'timm'"):
        train(resolve(config), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("init_zero_output", True), ("init_source", "timm"), ("init_part", "backbone"), ("frozen", ("stem",))),
        *(("init_key", "ema"), ("init_adapt_stem", True)),
    ],
)
def test_what_means_nothing_without_weights(field, value):
    with pytest.raises(ConfigError, match=f"config field 'model.{field}' needs 'model.init_from'"):
        resolve({"model": {field: value}})


def test_frozen_is_a_tuple_of_names():
    with pytest.raises(ConfigError, match=r"config field 'model.frozen' must be a tuple of str, got 3"):
        resolve({"model": {"frozen": (3,), "init_from": "x"}})
