"""Tests of the configs that start from a backbone of ImageNet: Faster and Mask R-CNN, UPerNet and Semantic FPN."""

import re
import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from flax import nnx

from aa_flax.analysis.ledger import touvron, zhu
from aa_flax.analysis.programs import of_config
from aa_flax.analysis.provenance import ROOT
from aa_flax.tasks import make_task
from aa_flax.training import resolve
from aa_flax.training.initial import build_model

sys.path.insert(0, str(Path(__file__).parent))
from test_configs import docstring, load

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

# Parameters of a PatchConvNet: the stem, blocks of one width, and its pyramid of three transposed convolutions and a
# batch norm, by the formulas of the authors' code; the parts around a backbone of 384 channels as counted by hand.
S60 = 872_208 + 60 * 374_880 + 3 * (4 * 384**2 + 384) + 2 * 384
S120 = S60 + 60 * 374_880
FPN_384 = 4 * (384 * 256 + 256) + 4 * (9 * 256**2 + 256)
REGIONS = 593_935 + 14_306_705 + 2_643_280  # proposals, boxes of 80 classes and background, masks
FROZEN_50, FROZEN_101 = 53_120, 105_344  # scales and shifts of frozen batch norms, which detectron2 does not count

COUNTS = {
    "coco/faster_rcnn_resnet101": 60_639_840 + FROZEN_101,
    "coco/faster_rcnn_aw_resnet101": 60_639_840 + FROZEN_101 + 305_592,
    "coco/mask_rcnn_resnet50": 44_343_216 + FROZEN_50,
    "coco/mask_rcnn_patchconvnet_s60": S60 + FPN_384 + REGIONS,
    "coco/mask_rcnn_patchconvnet_s120": S120 + FPN_384 + REGIONS,
    "ade20k/upernet_patchconvnet_s60": S60 + 29_187_222 + 923_798,
    "ade20k/upernet_patchconvnet_b60": 133_931_852,
    "ade20k/upernet_patchconvnet_b120": 223_154_252,
    "ade20k/upernet_patchconvnet_l120": 372_182_700,
    "ade20k/semantic_fpn_patchconvnet_s60": 29_534_118,
    "ade20k/upernet_resnet50": 23_508_032 + 40_590_486 + 2_398_358,
}
PUBLISHED = {f"{row.folder}/{row.model}": row.published for row in touvron.TRANSFERS}
PUBLISHED |= {f"coco/{row.model}": row.published for row in zhu.DETECTORS}
CHECKS = {"coco/mask_rcnn_resnet50", "ade20k/upernet_resnet50"}  # rows of no paper


def test_no_config_is_left_over():
    files = {
        f"{folder}/{file.stem}"
        for folder, pattern in (("coco", "*rcnn*.py"), ("ade20k", "*.py"))
        for file in (ROOT / "experiments" / folder).glob(pattern)
    }
    assert files == {*COUNTS} == {*PUBLISHED} | CHECKS


@pytest.mark.few
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", COUNTS)
def test_every_config_builds_and_is_told(name):
    file = f"experiments/{name}.py"
    config, text = resolve(load(file)), docstring(file)
    assert config.model.name == name.partition("/")[2] and config.label and f"--config={file}" in text
    backbone = re.sub(r"^(faster_rcnn|mask_rcnn|upernet|semantic_fpn)_", "", config.model.name)
    assert config.model.init_from == f"runs/{backbone}.safetensors" and config.model.init_from in text
    subject = of_config(config)
    task = make_task(config, subject.preprocessing)
    model = nnx.eval_shape(lambda: build_model(config, task))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == COUNTS[name] and f"Ours: not run yet. {count / 1e6:.3f} M parameters" in text
    assert subject.image_size("train") == max(config.data.train_sizes)
    if name in CHECKS:
        assert "a check of this library, no row of a paper" in text and "The paper: nothing." in text
    else:
        assert ("never published" in text and "Ours are" in text) or "are ours" in text
        assert set(re.findall(r"[\d.]+ %", PUBLISHED[name])) <= set(re.findall(r"[\d.]+ %", text))


def test_the_stored_ledger_has_every_row():
    stored = (ROOT / "experiments" / "results" / "ledger.md").read_text()
    for name in PUBLISHED:
        (line,) = [line for line in stored.splitlines() if f"`experiments/{name}.py`" in line]
        assert f"{COUNTS[name]:,}" in line and PUBLISHED[name] in line


def test_a_longer_schedule():
    config = resolve(load("experiments/coco/mask_rcnn_resnet50.py:3x"))
    assert (config.epochs, config.label) == (36, "Mask R-CNN, ResNet-50, 3x")
    with pytest.raises(flags.IllegalFlagValueError, match="mask_rcnn_resnet50.py knows 1x and 3x, not 'no'"):
        load("experiments/coco/mask_rcnn_resnet50.py:no")
