"""Tests of the data set of shapes that are cut out of photographs, and of the config that learns it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aa_flax.config.schema import resolve
from aa_flax.data.masks import mask_of
from aa_flax.data.sets.coco_json import CocoJson

FOLDER = Path(__file__).parents[2] / "experiments" / "shapes"


def module(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder made of photographs of one colour each, a split of which has another blue."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for split, blue in (("train2017", 200), ("val2017", 90)):
        images = []
        (folder / split).mkdir()
        for number in range(1, 5):
            color = (50 * number, int(rng.integers(256)), blue)
            Image.new("RGB", (240, 200), color).save(folder / split / f"{number}.png")
            entry = dict(id=number, file_name=f"{number}.png", license=4, flickr_url=f"http://{split}/{number}")
            images.append({**entry, "height": 200, "width": 240})
        images.append(dict(id=9, file_name="9.png", height=1, width=1))  # not there
        licenses = [dict(id=4, name="Attribution License", url="http://licence")]
        (folder / f"instances_{split}.json").write_text(json.dumps(dict(images=images, licenses=licenses)))
    module("make_shapes").make(folder, folder / "out", {"train": 4, "val": 2}, seed=3)
    return folder / "out"


def test_polygons_are_what_is_seen_of_shapes(made):
    """Photographs have one colour, so that a shape's pixels have one that is not that of the ground."""
    origin = CocoJson("coco_json/shapes", made)
    assert {split: len(origin.photos(split)) for split in ("train", "val")} == {"train": 4, "val": 2}
    assert origin.notes == [] and origin.class_names == ["disc", "square", "triangle", "star", "cross"]
    objects = 0
    for split, blue in (("train", 200), ("val", 90)):
        for photo in origin.photos(split):
            pixels = np.asarray(Image.open(photo.path)).astype(int)
            assert pixels.shape == (128, 160, 3) and (abs(pixels[..., 2] - blue) <= 1).all()
            every = np.zeros((128, 160), int)
            for each in photo.objects:
                mask = mask_of(each.segmentation, (128, 160))
                every += mask.pixels()
                assert abs(mask.area - each.area) < 0.1 * each.area and each.area > 150
                inside = mask.pixels()
                inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
                assert (np.ptp(pixels[inside], axis=0) <= 2).all()
                x1, y1, x2, y2 = each.box
                assert min(x1, y1) >= 2 and x2 <= 158 and y2 <= 126
                objects += 1
            assert every.max(initial=0) <= 1
            ground = np.median(pixels[every == 0], axis=0)
            off = abs(pixels - ground).max(-1) > 2
            assert (off & (every == 0)).sum() < 0.25 * max(off.sum(), 1) and off[every > 0].mean() > 0.9
    assert objects > 10


def test_photographs_in_the_images_are_named(made):
    text = (made / "ATTRIBUTION.md").read_text()
    document = json.loads((made / "val.json").read_text())
    used = {number for image in document["images"] for number in image["photographs"]}
    for number in range(1, 5):
        assert (f"http://val2017/{number}: Attribution License, http://licence" in text) == (number in used)
    assert len(used) > 1


def test_the_same_seed_makes_the_same_image(made, tmp_path):
    module("make_shapes").make(made.parent, tmp_path, {"train": 1}, seed=3)
    assert (tmp_path / "train/train0001.png").read_bytes() == (made / "train/train0001.png").read_bytes()


def test_the_config_is_of_masks():
    config = resolve(module("mask_rcnn").get_config())
    assert config.model.name.startswith("mask_rcnn_") and config.data.eval_split == config.data.train_split == "train"
