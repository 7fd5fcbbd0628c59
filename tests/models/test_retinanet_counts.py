"""Tests of RetinaNet's parameters, operations and anchors against those that were published."""

import math

import pytest
from flax import nnx

from aa_flax.analysis import summarize
from aa_flax.models import create_model
from aa_flax.models.backbones import norms_of_its_own

OTHERS = dict(fpn_width=16, head_width=12, head_depth=1, num_classes=5, image_size=(64, 96))
TINY = dict(width=8, blocks=(1, 1, 1, 1), **OTHERS)


def shapes(name="retinanet_resnet18", **options):
    return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "options", "params", "frozen"),
    [
        ("retinanet_resnet50", {}, 33_420_404, 0),
        ("retinanet_resnet50", dict(flavor="torchvision"), 34_068_119, 53_120),
        ("retinanet_se_resnet50", dict(squeeze_excite_bias=False), 35_935_348, 0),
        ("retinanet_resnet50", dict(num_classes=80), 33_282_104, 0),
        ("retinanet_resnet50", dict(anchor_scales=3), 34_070_414, 0),
        ("retinanet_resnet101", {}, 52_412_532, 0),
        ("retinanet_resnet101", dict(anchor_scales=3), 53_062_542, 0),
        ("retinanet_se_resnet50", {}, 35_951_396, 0),
        ("retinanet_se_resnet101", {}, 57_190_244, 0),
        ("retinanet_se_resnet101", dict(squeeze_excite_bias=False), 57_155_700, 0),
    ],
)
def test_parameters(name, options, params, frozen):
    """Those of Table 5 (33.4, 52.4, 35.9 and 57.2 M), and what torchvision's network has with its frozen norms."""
    model = shapes(name, **options)
    found = {path: math.prod(value.shape) for path, value in nnx_params(model).items()}
    assert sum(found.values()) == params
    parts = [path for path in model.frozen_parts if path not in ("backbone.stem", "backbone.stage1")]
    parts += [f"backbone.{path}" for path, norm in norms_of_its_own(model.backbone) if norm.frozen]
    assert sum(size for path, size in found.items() if path.rpartition(".")[0] in parts) == frozen
    assert {path.rpartition(".")[2] for path in found if path.rpartition(".")[0] in parts} <= {"scale", "bias"}


def nnx_params(model):
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "gflops"), [("retinanet_resnet50", 182.3), ("retinanet_resnet101", 242.9)], ids=["resnet50", "resnet101"]
)
def test_operations_of_table_5(name, gflops):
    """2 × multiply-adds at 640×640, both heads at all levels; for ResNet-50 divided as 33.364, 6.496 and 51.304 G."""
    summary = summarize(name)
    assert summary.image_shape == (640, 640, 3) and summary.flops / 1e9 == pytest.approx(gflops, rel=5e-4)
    parts = {part: summary.by_module[part].flops / 2e9 for part in ("backbone", "fpn", "class_head", "box_head")}
    assert sum(parts.values()) == pytest.approx(summary.flops / 2e9, rel=1e-9)
    assert parts["fpn"] == pytest.approx(6.496, abs=1e-3)
    assert parts["class_head"] + parts["box_head"] == pytest.approx(51.304, abs=1e-3)
    if name == "retinanet_resnet50":
        assert parts["backbone"] == pytest.approx(33.364, abs=1e-3)


def test_summary_prints_frozen_parameters_apart():
    summary = summarize(shapes(**TINY, flavor="torchvision", frozen_stages=0))
    frozen = sum(2 * channels for channels in (8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64))
    assert summary.frozen == frozen and summary.params > frozen
    *_, before, last = summary.table(depth=1).splitlines()
    assert before.split()[-1] == f"{frozen:,}" and last.startswith("total")
    assert next(iter(summary.by_module)) == "backbone"  # which is not called itself
    plain = summarize(shapes("resnet18", width=8, blocks=(1, 1, 1, 1)), 32)
    assert plain.frozen == 0 and "frozen" not in plain.table()


@pytest.mark.parametrize(("size", "count"), [(512, 32_736), (640, 51_150)])
def test_the_papers_numbers_of_anchors(size, count):
    model = shapes(**{**TINY, "image_size": size})
    assert len(model.anchors(size, size)) == count
    if size == 640:
        assert len(shapes(**TINY, anchor_scales=3).anchors(640, 640)) == 76_725
