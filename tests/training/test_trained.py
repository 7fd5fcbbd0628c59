"""Tests that all commands give the same predictions of a run's network for a photograph."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from aa_flax import data
from aa_flax.config.schema import resolve
from aa_flax.data.photo import load_photo
from aa_flax.data.pipeline import eval_batches
from aa_flax.data.preprocessing import preprocessing_for
from aa_flax.runs.checkpoint_files import delete_checkpoint
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.directory import RunDirectory
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout
from aa_flax.training.trained import load_model, make_predict

SIZE = (12, 20)  # input size of the network in pixels
CROPS = {"squashed": {}, "as trained on parts": {"crop": "resized"}, "whole centre": {"resize": "center_crop"}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with photographs of three sizes, some turned or grey, and the prepared data set."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for index in range(18):
        file = folder / "test" / ("ant", "bee")[index % 2] / f"{index}.{('png', 'jpg')[index % 3 == 0]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (5, 4) if index % 5 == 4 else (5, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize(((60, 34), (31, 47), SIZE[::-1])[index % 3], Image.Resampling.BICUBIC)
        exif = image.getexif()
        exif[0x0112] = 6 if index == 5 else 1
        image.save(file, exif=exif)
    (folder / "train").symlink_to(folder / "test")
    return folder, data.load("image_folder/photos", data_dir=folder / "tfds", source_dir=folder)


@pytest.mark.few(2)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", CROPS)
def test_predict_says_of_each_file_what_evaluation_said(photos, crop, interpolation):
    folder, dataset = photos
    fields = {"crop": "none", "image_size": 16, "interpolation": interpolation, **CROPS[crop]}
    if crop == "whole centre":
        fields["crop_fraction"] = 1.0
    options = {"depth": 10, "widen_factor": 1}
    config = resolve({"data": fields, "model": {"name": "wide_resnet28_10", "options": options}})
    preprocessing = dataclasses.replace(preprocessing_for(config, dataset), image_size=SIZE)
    program = Program.of(config, preprocessing, Layout.of(config, jax.devices()[:1]), 1)
    variables = (program.params, program.batch_stats)
    model = program.model(variables)
    predict = make_predict(model, program.task, preprocessing)
    evaluate = jax.jit(program.predictions)

    source, said = dataset.split("test"), {}
    with eval_batches(source, batch_size=6, view=preprocessing.view()) as batches:
        for batch in batches:
            logits = np.asarray(evaluate(variables, batch["image"]))
            said |= {source.record(index)["image"]: logits[i] for i, index in enumerate(batch["index"].tolist())}
    assert len(said) == 18
    found, mean = [], np.mean([*said.values()], 0)  # an untrained network prefers one class
    for stored, logits in said.items():
        file = folder / "photo"
        file.write_bytes(stored)  # the bytes as the data set stores them
        ours = np.asarray(predict(load_photo(file, preprocessing.view(), 3)[None]))[0]
        np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)
        found.append(int((ours - mean).argmax()))
        assert found[-1] == (logits - mean).argmax()
    # The original files, from which the data set was made, give the same.
    by_file = [
        np.asarray(predict(load_photo(file, preprocessing.view(), 3)[None]))[0]
        for file in sorted((folder / "test").rglob("*.*"))
    ]
    np.testing.assert_allclose(np.sort(by_file, 0), np.sort([*said.values()], 0), rtol=1e-4, atol=1e-5)
    assert len({*found}) == 2


@pytest.mark.thorough
@pytest.mark.parametrize("named", [False, True])
def test_a_checkpoint_that_is_deleted_while_it_is_read_is_no_end(plain_config, tmp_path, monkeypatch, named):
    config = resolve(plain_config)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir)
    program = Program.of(config, preprocessing_for(config, dataset), Layout.of(config), 4)
    directory, state = RunDirectory(tmp_path), program.new_state()
    directory.begin(config, program.preprocessing)
    with Checkpoints(directory.checkpoints) as checkpoints:
        for step in (1, 2):
            checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)))

    def restore(checkpoints, step, like):
        if step == 2:
            delete_checkpoint(directory.checkpoints, 2)  # as a run that trains there and has newer ones does
        return read(checkpoints, step, like)

    read = Checkpoints._restore
    monkeypatch.setattr(Checkpoints, "_restore", restore)
    if named:
        with pytest.raises(Exception, match="2"):
            load_model(directory, 2)
    else:
        assert load_model(directory)[1] == 1
