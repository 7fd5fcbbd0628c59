"""Tests of the config that is chosen for a folder: from what, what is taken and what is new."""

import numpy as np
import pytest
from flax import nnx
from label_sets import labelled, write_labelled
from photo_sets import photos, write_coco, write_yolo

from aa_flax import weights
from aa_flax.finetuning import recipe
from aa_flax.finetuning.recipe import parts_without
from aa_flax.models import create_model
from aa_flax.training import ConfigError, resolve
from aa_flax.weights import WeightsError
from aa_flax.weights.convert import to_torch_state_dict

SMALL = dict(width=8, blocks=(1, 1, 1, 1))
AROUND = dict(fpn_width=8, head_width=8, head_depth=1, max_level=5)
RCNN = dict(fpn_width=8, rpn_width=8, box_head_width=16, max_level=5, batch_norm_epsilon=1e-5)


def saved(tmp_path, name, classes=4, **options):
    """Save a network with its card, and return the file."""
    model = create_model(name, num_classes=classes, image_size=(64, 64), rngs=nnx.Rngs(3), **SMALL, **options)
    file = tmp_path / f"{name}.safetensors"
    weights.save(model, file)
    return file


@pytest.fixture
def boxes(tmp_path):
    return write_yolo(tmp_path / "boxes", {"train": photos(train=21)["train"]}, "roboflow")


def made(tmp_path, folder, start="", **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    found = recipe(folder, start, changes={"data.data_dir": str(tmp_path / "tfds"), **changes})
    resolve(found.config)
    return found.config, "\n".join(found.said)


@pytest.mark.thorough
def test_from_a_detector_of_other_classes_all_but_their_layers_is_taken(tmp_path, boxes):
    config, said = made(tmp_path, boxes, saved(tmp_path, "retinanet_resnet18", **AROUND), epochs=20)
    assert config.model.name == "retinanet_resnet18" and config.model.options.width == 8
    assert config.model.init_part == "" and config.data.image_size == (64, 64)
    assert "new: class_head.out" in said and "held out: 4 of 21" in said
    assert config.model.frozen_epochs == 3 and "backbone" in config.model.frozen
    assert {"box_head", "fpn"} <= {*config.model.frozen} and not {"class_head.out", "class_head"} & {
        *config.model.frozen
    }
    assert config.data.train_split == "train[:17]" and config.data.eval_split == "train[17:]"


@pytest.mark.thorough
def test_torchvisions_weights_with_masks_serve_boxes(tmp_path, boxes):
    safetensors = pytest.importorskip("safetensors.numpy")
    theirs = create_model("mask_rcnn_resnet18", num_classes=6, rngs=nnx.Rngs(4), image_size=64, box_head_width=16)
    state = to_torch_state_dict(theirs, source="torchvision")
    safetensors.save_file({key: np.asarray(value) for key, value in state.items()}, tmp_path / "maskrcnn.safetensors")
    options = {"model__options.box_head_width": 16, "data__image_size": 64}
    config, said = made(tmp_path, boxes, tmp_path / "maskrcnn.safetensors", **options)
    assert config.model.name == "faster_rcnn_resnet18" and config.model.init_source == "torchvision"
    assert "4 new; new: box_head.boxes, box_head.classes; left: roi_heads.box_pr" in said and "mask_head.0.0" in said
    assert "backbone" in config.model.frozen and "rpn" in config.model.frozen


@pytest.mark.thorough
def test_a_classifier_becomes_the_backbone_and_back(tmp_path, boxes):
    config, said = made(tmp_path, boxes, saved(tmp_path, "resnet18"), **{"model.options.fpn_width": "8"})
    assert (config.model.name, config.model.init_part) == ("retinanet_resnet18", "backbone")
    assert config.model.frozen == ("backbone",) and config.model.options.fpn_width == 8
    maps = tmp_path / "maps"
    write_labelled(maps, {"train": labelled(train=19)["train"]})
    config, said = made(tmp_path, maps, saved(tmp_path, "retinanet_resnet18", **AROUND))
    assert (config.model.name, config.task.name) == ("upernet_resnet18", "segmentation")
    assert config.model.frozen == ("backbone",) and "held out: 4 of 19 photographs, at random" in said


@pytest.mark.thorough
def test_a_detector_gives_a_classifier_its_backbone(tmp_path, flowers):
    config, said = made(tmp_path, flowers, saved(tmp_path, "retinanet_resnet18", **AROUND), seed=3)
    assert (config.model.name, config.model.init_part, config.seed) == ("resnet18", "", 3)
    assert config.model.frozen == ("bn", "stage1", "stage2", "stage3", "stage4", "stem") and "new: head" in said
    assert config.optimizer.layer_decay == pytest.approx(0.1 ** (1 / 5), abs=1e-4)  # a stem and four blocks


@pytest.mark.thorough
def test_without_weights_a_small_network_learns_with_a_warning(tmp_path, flowers, boxes):
    config, said = made(tmp_path, flowers)
    assert config.model.init_from == "" and config.model.frozen_epochs == 0 and config.model.frozen == ()
    assert "warning: 18 photographs are few to learn from alone; --from=WEIGHTS" in said
    config, _ = made(tmp_path, boxes)
    assert config.model.options.anchor_size in (1.0, 2.0) and config.task.options.most_objects == 100
    config, _ = made(tmp_path, write_coco(tmp_path / "coco", photos(train=17)))
    assert config.data.eval_split == "val"


@pytest.mark.thorough
def test_changes_win_and_mistakes_are_one_line(tmp_path, flowers):
    start = saved(tmp_path, "resnet18")
    config, _ = made(
        tmp_path, flowers, start, epochs=1, model__frozen=("stem",), optimizer__learning_rate=0.5, batch_size=8
    )
    assert (config.epochs, config.batch_size, config.optimizer.learning_rate) == (1, 8, 0.5)
    assert config.model.frozen == ("stem",) and config.model.frozen_epochs == 0
    assert made(tmp_path, flowers, start, optimizer__warmup_steps=3)[0].optimizer.warmup == 0
    config, said = made(tmp_path, flowers, start, **{"model__name": "aa_resnet18", "model.options.num_heads": 2})
    assert config.model.options.width == 8 and config.model.options.num_heads == 2 and "stage2.block1.conv1" in said
    config, _ = made(tmp_path, flowers, start, model__frozen_epochs=0)
    assert config.model.frozen == () and config.model.frozen_epochs == 0
    for fields, error, words in (
        (dict(model__name="resnet19"), ConfigError, "'model.name': there is no model named 'resnet19'"),
        ({"model.options.width": "wide"}, ConfigError, "'model.options.width' must be a whole number, got 'wide'"),
        (dict(nothing=3), ConfigError, "unknown config field 'nothing'"),
    ):
        with pytest.raises(error, match=words):
            made(tmp_path, flowers, start, **fields)
    with pytest.raises(ConfigError, match="'model.init_from': .*do not fit this ResNet"):
        made(tmp_path, flowers, start, model__name="resnet50")
    for place in ("nothing.pth", "flowers"):
        with pytest.raises(WeightsError, match=f"{place}: (no such file or folder|neither a run directory nor)"):
            made(tmp_path, flowers, tmp_path / place)


def test_the_largest_parts_without_anything_new():
    class Part(nnx.Module):
        def __init__(self, *names):
            for name in names:
                setattr(self, name, nnx.Linear(1, 1, rngs=nnx.Rngs(0)))

    model = Part("stem", "head")
    model.neck = Part("first", "second")
    assert parts_without(model, ["neck.second.bias", "head.kernel"]) == ("neck.first", "stem")
    assert parts_without(model, ["stem.kernel"]) == ("head", "neck")
    assert parts_without(model, []) == ()
