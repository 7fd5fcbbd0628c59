"""Tests of properties that every classifier of the registry has."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import attention_maps, summarize
from aa_flax.models import create_model, list_models
from aa_flax.training import functional

ROOT = Path(__file__).parents[2]


def small(name):
    """Return options that make a network small and leave it its kinds of blocks."""
    if "wide" in name:
        # By default these narrow layers would not attend: a tenth of their channels is less than eight heads.
        attention = dict(num_heads=2, upsilon=0.25) if "aa_" in name else {}
        return dict(depth=10, widen_factor=1, **attention)
    if "mnasnet" in name:
        return dict(width=0.5)
    if "patchconvnet" in name:
        return dict(width=8, depth=2)
    return dict(blocks=(1, 1, 1, 1))


def sizes(name):
    """Return an odd image size that the network accepts, and the smallest one."""
    return ((48, 80), (16, 16)) if "patchconvnet" in name else ((33, 50), (1, 1))


def kinds():
    """Return one name of each kind of network, where names that `small` makes equal are one kind."""
    found = {}
    for name in list_models(task="classification"):
        basic = name.endswith(("18", "34"))
        family = name.rstrip("0123456789") + ("_basic" if "_" not in name[-4:] and basic else "")
        if "patchconvnet" in name:
            family = "patchconvnet" + "_multi" * name.endswith("_multi")
        found.setdefault(family, name)
    return sorted(found.values())


def test_the_kinds_are_all_there():
    prefixes = ("", "aa_", "bam_", "cbam_", "gala_", "ge_", "se_")
    expected = {f"{prefix}resnet{depth}" for prefix in prefixes for depth in (101, 18)}
    expected |= {f"{prefix}wide_resnet28_10" for prefix in ("", "aa_", "ge_", "se_")}
    expected |= {"fully_attentional_resnet50", "mnasnet_075", "aa_mnasnet_075"}
    expected |= {f"aw_{name}" for name in expected if not name.startswith("fully")}
    expected |= {"patchconvnet_b120", "patchconvnet_s60_multi"}
    assert set(kinds()) == expected


def computed():
    """Return the kinds that compute an image: of AW networks only one for each family and position of the layer.

    The first is one that compiles quickly.
    """
    alone = ("aw_resnet18", "aw_mnasnet_075", "aw_aa_resnet101", "aw_se_wide_resnet28_10", "aw_bam_resnet101")
    found = [name for name in kinds() if not name.startswith("aw_") or name in alone]
    return sorted(found, key=lambda name: name != "aa_wide_resnet28_10")


@pytest.mark.few(0, thorough=6)
@pytest.mark.parametrize("name", computed())
def test_odd_sizes_one_image_and_four_channels(rng, name):
    """No stage's stride divides 33×50; logits, features, attention maps and the summary agree on the sizes."""
    (h, w), _ = sizes(name)
    model = create_model(name, num_classes=5, image_size=(h, w), in_channels=4, **small(name), rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    x = jnp.asarray(rng.normal(size=(1, h, w, 4)), jnp.float32)
    logits, features = jax.jit(lambda s, x: (lambda m: (m(x), m.features(x)))(nnx.merge(graph, s, copy=True)))(state, x)
    assert logits.shape == (1, 5) and np.isfinite(logits).all()
    assert features.keys() == model.feature_info.keys()
    for stage, info in model.feature_info.items():
        assert features[stage].shape == (1, -(-h // info.stride), -(-w // info.stride), info.channels)
    maps = attention_maps(model, x, queries=[(0, 0), (h - 1, w - 1)])
    assert bool(maps) == name.removeprefix("aw_").startswith(("aa_", "fully", "patchconvnet"))
    for path, weights in maps.items():
        if path == "pooling":  # the queries are tokens, and a single token attends to itself too
            tokens = model.pooling.tokens.shape[0]
            assert weights.shape == (1, 1, tokens, h // 16, w // 16) and weights.sum((-1, -2)).max() < 1 + 1e-5
            continue
        assert weights.shape[0] == 1 and weights.shape[2] == 2
        np.testing.assert_allclose(weights.sum((-1, -2)), 1, rtol=1e-5, err_msg=path)
    summary = summarize(model)
    assert summary.image_shape == (h, w, 4)
    assert summary.params == sum(leaf.size for leaf in jax.tree.leaves(functional(model)[1]))
    assert summary.flops > 2 * summary.by_module["head"].params - 20 and "head" in summary.table()


@pytest.mark.few(0, thorough=5)
@pytest.mark.parametrize("name", kinds())
def test_shapes_of_other_inputs(name):
    """Only shapes run: grey images, a batch of three, a training step, and the smallest image."""
    model = nnx.eval_shape(lambda: create_model(name, num_classes=5, in_channels=1, **small(name), rngs=nnx.Rngs(0)))
    apply, params, batch_stats = functional(model)
    (h, w), smallest = sizes(name)
    for shape in ((3, 2 * w, h, 1), (2, *smallest, 1)):  # batch norm needs two values of a channel
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        out, stats = jax.eval_shape(lambda p, s, x: apply(p, s, x, train=True), params, batch_stats, images)
        assert out.shape == (shape[0], 5)
        assert jax.tree.structure(stats) == jax.tree.structure(batch_stats)


@pytest.mark.few(5)
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["resnet18", "mnasnet_075", "wide_resnet28_10", "patchconvnet_s60"])
@pytest.mark.parametrize("shape", [(2, 33, 50, 3), (2, 33, 50), (0, 33, 50, 4), (2, 0, 50, 4)])
def test_inputs_that_do_not_fit(name, shape):
    model = nnx.eval_shape(lambda: create_model(name, num_classes=5, in_channels=4, **small(name), rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    with pytest.raises(ValueError, match=rf"images must have shape \[b, h, w, in_channels=4\].*got \({shape[0]}, "):
        jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, jax.ShapeDtypeStruct(shape, jnp.float32))


BIG = [f"{prefix}resnet152" for prefix in ("aa_", "gala_", "retinanet_aa_")] + [
    "wide_resnet28_10",
    "aa_mnasnet_140",
    "patchconvnet_s120",
]


OTHERS = [name for name in (*list_models(task="classification"), *list_models("retinanet_*")) if name not in BIG]
"""Of families around a backbone one is enough: what stands around it is the same for all, and has tests of its own."""


@pytest.mark.few(0, thorough=3)
@pytest.mark.parametrize("name", BIG + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_building_takes_seconds(name):
    start = time.process_time()  # time of all threads, which is at least the wall time of an idle machine
    create_model(name, rngs=nnx.Rngs(0))
    assert time.process_time() - start < 10


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak memory")
def test_building_takes_little_memory():
    """The peak is at most three times the size of the parameters above the memory after the imports."""
    code = """if True:
        import re
        from pathlib import Path
        from flax import nnx
        from aa_flax.models import create_model
        # Not getrusage, which starts from the peak of the process that this one was forked from.
        peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        before = peak()
        model = create_model("aa_resnet152", rngs=nnx.Rngs(0))
        print((peak() - before) / (4 * sum(leaf.size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)))))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 1 <= float(done.stdout) <= 3
