import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from aa_flax.data import DataError, load
from aa_flax.data.images import encode_png
from aa_flax.data.prepared import find_prepared, resolve_data_dir


def build(data_dir, name="toy_photos", version="1.2.0", config=None, features=None, count=5):
    """Build a data set as `aa_flax.data prepare --file_format=array_record` does, shuffled as in the catalogue."""
    features = features or {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
    }

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "validation": self._generate_examples()}

        def _generate_examples(self):
            for number in range(count):
                image = encode_png(np.full((3 + number, 4, 3), number, np.uint8))
                values = {"file_name": f"{number}.png", "label": number % 3}
                yield str(number), {key: values.get(key, image) for key in features}

    Builder.name = name
    builder = Builder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_reads_a_set_of_the_catalogue(tmp_path):
    build(tmp_path)
    dataset = load("toy_photos", data_dir=tmp_path)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.image_shape == (None, None, 3)
    assert dataset.splits == {"train": 5, "validation": 5}
    assert dataset.mean == (0.485, 0.456, 0.406)
    seen = set()
    for example in dataset.split("validation"):
        number = int(example["image"][0, 0, 0])
        assert example["image"].shape == (3 + number, 4, 3)
        assert example["label"] == number % 3
        seen.add(number)
    assert seen == set(range(5))


def test_finds_versions_and_configs(tmp_path):
    old, new = build(tmp_path, version="1.9.0"), build(tmp_path, version="1.10.0")
    assert find_prepared("toy_photos", tmp_path) == new
    assert find_prepared("toy_photos:1.9.0", tmp_path) == old
    assert find_prepared("toy_photos:3.0.0", tmp_path) is None
    small = build(tmp_path, name="sized", config="small")
    assert find_prepared("sized", tmp_path) == find_prepared("sized/small:1.2.0", tmp_path) == small
    build(tmp_path, name="sized", config="large")
    with pytest.raises(DataError, match="several configs are prepared, name one: sized/large, sized/small"):
        load("sized", data_dir=tmp_path)
    assert load("sized/small", data_dir=tmp_path).folder == small


@pytest.mark.parametrize("name", ["", "../toy_photos", "toy photos", "toy_photos/a/b", "toy_photos:1"])
def test_names_of_another_form(tmp_path, name):
    build(tmp_path)
    with pytest.raises(DataError, match=r"is no name of a data set, expected name\[/config\]\[:version\]"):
        load(name, data_dir=tmp_path)


def test_data_dir(monkeypatch, tmp_path):
    assert resolve_data_dir(tmp_path) == tmp_path
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "set"))
    assert resolve_data_dir("") == tmp_path / "set"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_data_dir("") == tmp_path / "tensorflow_datasets"


def test_not_prepared_says_how(tmp_path):
    with pytest.raises(DataError) as error:
        load("imagenet2012", data_dir=tmp_path)
    assert f"python -m aa_flax.data prepare imagenet2012 --data_dir={tmp_path}" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError) as error:
        load("cifar100", data_dir=tmp_path)
    assert "source_dir" in str(error.value)
    assert "aa_flax.data prepare cifar100" in str(error.value)


def test_tfrecord_is_refused(tmp_path):
    info = build(tmp_path) / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"prepared as tfrecord.*must be array_record.*aa_flax.data prepare toy_photos"):
        load("toy_photos", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image()}, "exactly one image and one class label; images: image; class labels: none"),
        (
            {
                "left": tfds.features.Image(),
                "right": tfds.features.Image(),
                "label": tfds.features.ClassLabel(num_classes=3),
            },
            "images: left, right; class labels: label",
        ),
        (
            {"image": tfds.features.Image(shape=(None, None, 4)), "label": tfds.features.ClassLabel(num_classes=3)},
            "'image' has 4 channels of uint8, expected 1 or 3 of uint8",
        ),
    ],
)
def test_other_features_are_refused(tmp_path, features, message):
    build(tmp_path, features=features)
    with pytest.raises(DataError, match=message):
        load("toy_photos", data_dir=tmp_path)


def test_segmentation_maps_are_no_input_images(tmp_path):
    features = {
        "image": tfds.features.Image(),
        "mask": tfds.features.LabeledImage(labels=3, shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    build(tmp_path, features=features)
    assert load("toy_photos", data_dir=tmp_path).split("train")[0]["image"].shape[-1] == 3


def test_damaged_description(tmp_path):
    (build(tmp_path) / "features.json").write_text("{")
    with pytest.raises(DataError, match="description of the data set cannot be read") as error:
        load("toy_photos", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_fingerprint_changes_with_the_data(tmp_path):
    first = [load("toy_photos", data_dir=build(tmp_path / str(i)).parents[1]).fingerprint for i in range(2)]
    build(tmp_path / "other", count=6)
    assert first[0] == first[1] != load("toy_photos", data_dir=tmp_path / "other").fingerprint


def named(name):
    """Return descriptions that name a class, in every form and depth that TFDS reads."""
    image = {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": {"dtype": "uint8"}}
    top = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
    sequence = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    legacy = {"type": name, "content": {}}
    return {
        "top": {"pythonClassName": name, "featuresDict": {"features": {}}},
        "inside": {**top, "featuresDict": {"features": {"image": image, "x": {"pythonClassName": name, "text": {}}}}},
        "snake case": {**top, "featuresDict": {"features": {"x": {"python_class_name": name, "text": {}}}}},
        "sequence": {
            **top,
            "featuresDict": {
                "features": {
                    "x": {"pythonClassName": sequence, "sequence": {"feature": {"pythonClassName": name, "text": {}}}}
                }
            },
        },
        "legacy": legacy,
        "legacy inside": {
            "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "content": {"type": legacy},
        },
        "JSON in a string": {
            **top,
            "featuresDict": {
                "features": {
                    "x": {"pythonClassName": sequence, "jsonFeature": {"json": json.dumps({"feature": legacy})}}
                }
            },
        },
    }


@pytest.mark.parametrize("where", named(""))
@pytest.mark.parametrize("name", ["trap_of_features.Image", "tensorflow_datasets.core.features.x.y.trap", "trap"])
def test_what_a_folder_names_is_not_imported(tmp_path, monkeypatch, where, name):
    (tmp_path / "trap_of_features.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "toy_photos" / "1.2.0"
    folder.mkdir(parents=True)
    info = {"name": "toy_photos", "version": "1.2.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(named(name)[where]))
    with pytest.raises(DataError, match=f"features.json names '{name}', which is no feature of TFDS") as error:
        load("toy_photos", data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sprung").exists()
