"""Tests of the objects of photographs as data sets of the TFDS catalogue have them."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from photo_sets import photos, write_coco

from aa_flax.data import Boxes, DataError, load
from aa_flax.data.images import encode_png
from aa_flax.data.objects import find_objects

FEATURES = tfds.features
BOX = (0.1, 0.25, 0.5, 0.75)  # y1, x1, y2, x2


def build(data_dir, name, config, features, records, splits=("train", "validation")):
    """Store records as TFDS's own builders do, in TFDS's order."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=config)]

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=FEATURES.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for number, record in enumerate(records(split)):
                yield f"{split} {number}", record

    Builder.name = name
    builder = Builder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def image(number):
    return encode_png(np.full((30 + number, 40, 3), number, np.uint8))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A data set of the form of `coco/2017`, with 80 classes and a split without annotations."""
    features = {
        "image": FEATURES.Image(encoding_format="jpeg"),
        "image/filename": FEATURES.Text(),
        "image/id": np.int64,
        "objects": FEATURES.Sequence(
            {
                "area": np.int64,
                "bbox": FEATURES.BBoxFeature(),
                "id": np.int64,
                "is_crowd": np.bool_,
                "label": FEATURES.ClassLabel(names=[f"thing {k}" for k in range(80)]),
            }
        ),
    }

    def records(split):
        for number in range(4):
            objects = [
                dict(area=100 + k, bbox=FEATURES.BBox(*BOX), id=10 * number + k + 900, is_crowd=k == 1, label=79 - k)
                for k in range(number)
            ]
            objects = [] if split == "test" else objects
            yield {
                "image": image(number),
                "image/filename": f"{number}.jpg",
                "image/id": 70 + number,
                "objects": objects,
            }

    folder = tmp_path_factory.mktemp("catalogue")
    build(folder, "coco", "2017", features, records, ("train", "validation", "test"))
    return load("coco/2017", data_dir=folder)


def test_coco_of_the_catalogue(coco):
    assert coco.num_classes == 80 and coco.image_shape == (None, None, 3)
    places = (1, 11, 12, 24, 25, 27, 40, 41, 60, 61, 62, 70, 73, 80)
    known = dict(zip(places, (1, 11, 13, 25, 27, 31, 44, 46, 65, 67, 70, 79, 82, 90), strict=True))
    assert {place: coco.category_ids[place - 1] for place in known} == known and len(coco.category_ids) == 80
    assert [coco.is_annotated(split) for split in ("train", "validation[:1]", "test")] == [True, True, False]
    truths = {truth.image_id: truth for truth in coco.truths("validation")}
    assert sorted(truths) == [70, 71, 72, 73]
    for number in range(4):
        truth = truths[70 + number]
        height, width = 30 + number, 40
        assert (truth.file_name, truth.height, truth.width) == (f"{number}.jpg", height, width)
        expected = [BOX[1] * width, BOX[0] * height, BOX[3] * width, BOX[2] * height]
        assert truth.objects.boxes.shape == (number, 4)
        assert all(np.allclose(box, expected, rtol=1e-6) for box in truth.objects.boxes)  # stored in float32
        assert truth.objects.area.tolist() == [100 + k for k in range(number)]
        assert truth.objects.labels.tolist() == [79 - k for k in range(number)]
        assert truth.objects.crowd.tolist() == [k == 1 for k in range(number)]
        assert truth.objects.ids.tolist() == [10 * number + k + 900 for k in range(number)]
    counts = sorted(int(example["valid"].sum()) for example in coco.split("train", Boxes(5)))
    assert counts == [0, 1, 1, 2]


def test_of_a_sum_of_splits_images_and_objects_have_different_ids(coco):
    truths = coco.truths("train+validation")
    assert [truth.image_id for truth in truths] == list(range(1, 9))
    assert np.concatenate([truth.objects.ids for truth in truths]).tolist() == list(range(1, 13))


def test_voc_of_the_catalogue(tmp_path):
    """Its objects have the class "pose" besides, no area and no number, and its images several classes each."""
    names = ["cat", "dog"]
    features = {
        "image": FEATURES.Image(),
        "image/filename": FEATURES.Text(),
        "objects": FEATURES.Sequence(
            {
                "label": FEATURES.ClassLabel(names=names),
                "bbox": FEATURES.BBoxFeature(),
                "pose": FEATURES.ClassLabel(names=["frontal", "rear", "left"]),
                "is_truncated": np.bool_,
                "is_difficult": np.bool_,
            }
        ),
        "labels": FEATURES.Sequence(FEATURES.ClassLabel(names=names)),
        "labels_no_difficult": FEATURES.Sequence(FEATURES.ClassLabel(names=names)),
    }

    def records(split):
        box = FEATURES.BBox(*BOX)
        objects = [dict(label=k, bbox=box, pose=2, is_truncated=True, is_difficult=k == 1) for k in range(2)]
        yield {
            "image": image(0),
            "image/filename": "a.jpg",
            "objects": objects,
            "labels": [0, 1],
            "labels_no_difficult": [0],
        }

    build(tmp_path, "voc", "2007", features, records)
    dataset = load("voc/2007", data_dir=tmp_path)
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (1, 2))
    (truth,) = dataset.truths("train")
    assert (truth.image_id, truth.file_name) == (1, "a.jpg") and truth.objects.ids.tolist() == [1, 2]
    np.testing.assert_allclose(truth.objects.area, [20 * 12] * 2, rtol=1e-6)
    assert truth.objects.crowd.tolist() == [False, True] and truth.objects.labels.tolist() == [0, 1]
    assert dataset.split("train", Boxes(3))[0]["valid"].tolist() == [True, False, False]


def test_what_counts_as_objects():
    box, label = FEATURES.BBoxFeature(), FEATURES.ClassLabel(num_classes=2)
    for each, found in (
        ({"bbox": box, "label": label}, ["it"]),
        ({"bbox": box, "type": label}, ["it"]),
        ({"bbox": box, "type": label, "pose": label}, []),
        ({"bbox": box}, []),
        ({"label": label}, []),
        ({"box": FEATURES.Tensor(shape=(4,), dtype=np.float64), "label": label}, ["it"]),
        ({"box": FEATURES.Tensor(shape=(4,), dtype=np.float32), "label": label}, []),
        ({"bbox": box, "other": box, "label": label}, []),
    ):
        features = FEATURES.FeaturesDict({"image": FEATURES.Image(), "it": FEATURES.Sequence(each)})
        assert [form.key for form in find_objects(features)] == found, each


def test_an_image_with_a_class_and_boxes_is_classified(tmp_path):
    features = {
        "image": FEATURES.Image(),
        "label": FEATURES.ClassLabel(num_classes=3),
        "objects": FEATURES.Sequence({"bbox": FEATURES.BBoxFeature(), "label": FEATURES.ClassLabel(num_classes=2)}),
    }

    def records(split):
        yield {"image": image(0), "label": 2, "objects": []}

    build(tmp_path, "both", "x", features, records)
    dataset = load("both/x", data_dir=tmp_path)
    assert dataset.num_classes == 3 and dataset.split("train")[0]["label"] == 2
    with pytest.raises(DataError, match="a class each and no boxes"):
        dataset.truths("train")


@pytest.mark.parametrize("ids", [[1, 2], [1, 1, 2], [1, 2, "3"], None, {"1": 2}])
def test_damaged_ids_of_categories(tmp_path, ids):
    dataset = load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=write_coco(tmp_path / "it", photos()))
    path = dataset.folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "category_ids": ids}))
    with pytest.raises(
        DataError, match=r"metadata.json: expected the ids of 3 categories; remove .* and prepare again"
    ):
        load("coco_json/it", data_dir=tmp_path / "tfds").category_ids  # noqa: B018
