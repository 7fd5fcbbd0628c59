"""Tests of the layer-wise decay of learning rates, by counts of the layers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aa_flax.config.schema import ConfigError, OptimizerConfig
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models import create_model
from aa_flax.models.depth import depth_groups, group_of, number_of_groups
from aa_flax.training import functional, resolve
from aa_flax.training.layer_decay import decay_by_depth, depth_scales
from aa_flax.training.optimizers import optimizer
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout

PREPARED = Preprocessing((32, 32), 3, (0.5,) * 3, (0.25,) * 3, tuple("01234"), "float32", "")


def network(name, **options):
    """Return a network of which there are shapes only, and its parameters."""
    model = nnx.eval_shape(lambda: create_model(name, num_classes=5, image_size=64, **options, rngs=nnx.Rngs(0)))
    return model, functional(model)[1]


def scales_of(name, decay, **options):
    model, params = network(name, **options)
    scales = depth_scales(params, depth_groups(model), decay)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(scales)
    }


def test_resnet_by_hand():
    """ResNet-18 has eight blocks: the stem's rate is decayed nine times, the last block's once, the head's never."""
    scales = scales_of("bam_resnet18", 0.5)
    numbers = {"stem": 9, "bn": 9, "stage1.block1": 8, "stage1.block2": 7, "attention1": 7, "stage2.block1": 6}
    numbers |= {"stage2.block2": 5, "attention2": 5, "stage3.block1": 4, "stage3.block2": 3, "attention3": 3}
    numbers |= {"stage4.block1": 2, "stage4.block2": 1, "head": 0}
    for path, scale in scales.items():
        (part,) = [name for name in numbers if path.startswith(f"{name}.")]
        assert scale == 0.5 ** numbers[part], path
    assert {path.split(".")[0] for path in scales} == {name.split(".")[0] for name in numbers}


def test_patchconvnet_by_hand():
    """Three stacked blocks: the scales lie along their first axis, and broadcast over the rest of each array."""
    scales = scales_of("patchconvnet_s60", 0.5, width=8, depth=3)
    for path, scale in scales.items():
        if path.startswith("trunk.blocks."):
            assert scale.shape[0] == 3 and scale.ravel().tolist() == [0.125, 0.25, 0.5], path
        else:
            assert scale == (0.0625 if path.startswith("stem.") else 1.0), path
    assert {path.split(".")[0] for path in scales} == {"stem", "trunk", "pooling", "head"}


def test_detectors_decay_their_backbone_alone():
    alone, scales = scales_of("resnet18", 0.9), scales_of("retinanet_resnet18", 0.9)
    backbone = {path.removeprefix("backbone."): s for path, s in scales.items() if path.startswith("backbone.")}
    assert backbone == {path: scale for path, scale in alone.items() if not path.startswith("head.")}
    assert {float(s) for path, s in scales.items() if not path.startswith("backbone.")} == {1.0}


@pytest.mark.few
@pytest.mark.parametrize(
    ("name", "last", "options"),
    [("mnasnet_100", 17, {}), ("wide_resnet28_10", 7, {"depth": 16, "widen_factor": 1}), ("resnet50", 17, {})],
)
def test_every_block_has_a_group_of_its_own(name, last, options):
    model, params = network(name, **options)
    groups = depth_groups(model)
    assert number_of_groups(groups) == last
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(params)]
    found = [group_of(path, groups) for path in paths]
    assert {*found} == {*range(last + 1)}
    assert all((group in (0, last)) != (".block" in path) for path, group in zip(paths, found, strict=True))


@pytest.mark.parametrize("settings", [{"name": "sgd"}, {"name": "adamw", "weight_decay_mode": "decoupled"}])
def test_it_is_another_learning_rate_for_each_parameter(rng, settings):
    """Three steps equal those of optimisers of their own, each with the rate of its layer; weight decay included."""
    options = {"weight_decay": 0.1, "warmup": 0.0, "schedule": "constant", **settings}
    shapes = {"stem": {"kernel": (3, 5)}, "trunk": {"blocks": {"kernel": (2, 4, 3)}}, "head": {"kernel": (5,)}}
    params = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    groups = {"stem": 0, "trunk.blocks": range(1, 3)}
    chain = decay_by_depth(optimizer(OptimizerConfig(learning_rate=0.3, **options), 10, 5), groups, 0.7)
    parts = [  # the head, the second block, the first, the stem
        (params["head"]["kernel"], lambda tree: tree["head"]["kernel"]),
        (params["trunk"]["blocks"]["kernel"][1], lambda tree: tree["trunk"]["blocks"]["kernel"][1]),
        (params["trunk"]["blocks"]["kernel"][0], lambda tree: tree["trunk"]["blocks"]["kernel"][0]),
        (params["stem"]["kernel"], lambda tree: tree["stem"]["kernel"]),
    ]
    alone = [optimizer(OptimizerConfig(learning_rate=0.3 * 0.7**i, **options), 10, 5) for i in range(4)]
    own = [{"kernel": part} for part, _ in parts]
    states = [each.init(part) for each, part in zip(alone, own, strict=True)]
    state = chain.init(params)
    for _ in range(3):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        updates, state = chain.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for i, (_, of) in enumerate(parts):
            step, states[i] = alone[i].update({"kernel": of(grads)}, states[i], own[i])
            own[i] = optax.apply_updates(own[i], step)
            np.testing.assert_allclose(of(params), own[i]["kernel"], rtol=1e-5, atol=1e-7)


def program_of(model, **optimizer):
    config = resolve({"batch_size": 8, "model": model, "data": {"crop": "none"}, "optimizer": optimizer})
    return Program.of(config, PREPARED, Layout.of(config), 5, shapes=True)


def test_a_run_has_it():
    model = {"name": "patchconvnet_s60", "options": {"width": 8, "depth": 3}, "frozen": ()}
    program = program_of(model, layer_decay=0.5, schedule="constant", warmup=0.0, momentum=0.0, weight_decay=0.0)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), program.params)
    updates = jax.jit(lambda ones: program.optimizer.update(ones, program.optimizer.init(ones), ones)[0])(ones)
    np.testing.assert_allclose(updates["stem"]["conv1"]["kernel"], -0.2 / 16, rtol=1e-6)
    np.testing.assert_allclose(updates["trunk"]["blocks"]["gamma"][:, 0], [-0.2 / 8, -0.2 / 4, -0.2 / 2], rtol=1e-6)
    np.testing.assert_allclose(updates["head"]["bias"], -0.2, rtol=1e-6)


def test_a_network_without_depth_is_an_error(monkeypatch):
    from aa_flax.models.patchconvnet import PatchConvNet

    monkeypatch.delattr(PatchConvNet, "depth_groups")
    model = {"name": "patchconvnet_s60", "options": {"width": 8, "depth": 3}}
    program_of(model)
    with pytest.raises(ConfigError, match=r"'optimizer.layer_decay' \(0.5\): PatchConvNet does not name the depth"):
        program_of(model, layer_decay=0.5)
