"""Tests of whole training steps that the planner compiles for an absent H100."""

import dataclasses
import functools
import re

import pytest

from aa_flax.analysis.plan import plan
from aa_flax.analysis.programs import of_config, of_model
from aa_flax.analysis.targets import compiler_of, find_target
from aa_flax.config.detection_recipes import coco_retinanet
from aa_flax.config.schema import resolve

pytestmark = [pytest.mark.h100, pytest.mark.usefixtures("optimized")]


@functools.cache
def planned(name, batch):
    """Return the plan of a training step with attention by our kernels; "auto" mostly chooses cuDNN, by time."""
    target = find_target("h100:1")
    compiler = compiler_of(target)
    compiler.prepare()
    subject = of_model(name).with_batch(batch)
    if name.startswith("aa_"):
        model = dataclasses.replace(subject.config.model, options={"implementation": "pallas_gpu"})
        subject = dataclasses.replace(subject, config=dataclasses.replace(subject.config, model=model))
    return plan(subject, "train", target, compiler.mesh_of(target))


@pytest.mark.parametrize(
    ("name", "batch", "attending"),
    [
        ("aa_resnet18", 64, 6),
        pytest.param("aa_resnet50", 64, 13, marks=pytest.mark.slow),
        pytest.param("aa_wide_resnet28_10", 128, 12, marks=pytest.mark.slow),
    ],
)
def test_every_layer_attends_by_the_kernels(name, batch, attending):
    found = planned(name, batch)
    assert found.fits and found.counts is not None
    calls = {
        kind: sum(each.calls for each in found.counts.launches if each.name == f"relative_attention_{kind}")
        for kind in ("forward", "backward")
    }
    assert calls == {"forward": attending, "backward": attending}
    assert 0 < found.counts.kernel_flops < found.counts.flops / 2


@pytest.mark.slow  # a minute for each of two networks
def test_attention_in_a_wide_resnet_moves_half_as_much_again():
    """The bytes are counted; storing all (h*w)**2 weights once would move three times as much."""
    ratio = planned("aa_wide_resnet28_10", 128).counts.bytes_moved / planned("wide_resnet28_10", 128).counts.bytes_moved
    assert 1 < ratio <= 1.6


@pytest.mark.parametrize("mode", ["infer", pytest.param("train", marks=pytest.mark.slow)])
def test_a_small_detector(mode):
    """The whole of it compiles; in inference no sort sees more than the anchors, or than the classes of the best."""
    target = find_target("h100:1")
    compiler = compiler_of(target)
    compiler.prepare()
    config = coco_retinanet()
    config.batch_size = 8
    config.model.name = "retinanet_aa_resnet18"
    small = dict(width=16, blocks=(1, 1, 1, 1), fpn_width=8, head_width=8, head_depth=1, max_level=5)
    config.model.options = dict(small, num_heads=1, candidates=100, max_detections=10)
    subject = of_config(resolve(config), (64, 128))
    found = plan(subject, mode, target, compiler.mesh_of(target))
    assert found.fits and found.counts is not None and found.counts.flops > 0
    assert (found.optimizer_bytes > 0) == (mode == "train")
    if mode == "infer":
        anchors, columns = (8 * 16 + 4 * 8 + 2 * 4) * 6, 90
        lengths = [int(length) for length in re.findall(r" = \(\w+\[8,(\d+)\][^)]*\) sort\(", found.hlo)]
        assert lengths and max(lengths) == anchors < 100 * columns
