"""Tests of `View`, by which evaluation and prediction resize and crop an image."""

import numpy as np
import pytest
from PIL import Image

from aa_flax.data.images import as_picture, decode_part
from aa_flax.data.photo import load_photo
from aa_flax.data.pipeline import eval_batches
from aa_flax.data.record_source import RecordSource
from aa_flax.data.view import View


class Files(RecordSource):
    """Source of encoded image files, as a prepared data set has them, without the data set."""

    name, target_shapes, _decode_part = "files", {}, staticmethod(decode_part)

    def __init__(self, files, channels):
        self.image_shape, self._image_key, self._ends = (None, None, channels), "image", [len(files)]
        self._targets_of = lambda record: {}
        self._records = [{"image": file.read_bytes()} for file in files]


def test_center_crop_keeps_the_aspect_and_centre():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 50 - 17 : 50 + 17] = 200
    # 0.875 of the largest square is 35 wide: the bright band nearly fills it, and squashing would show a third.
    assert (View((10, 10), "center_crop").of(as_picture(image))[:, 1:-1] == 200).all()
    assert (View((10, 10), "squash").of(as_picture(image)) == 200).mean() < 0.5


def test_squash_keeps_an_image_of_that_size(rng):
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(View((5, 7)).of(as_picture(image)), image)


def test_the_filter_is_the_one_that_is_named(rng):
    image = as_picture(rng.integers(0, 256, (20, 30, 3), np.uint8))
    for name in ("bilinear", "bicubic"):
        expected = image.resize((7, 5), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(View((5, 7), interpolation=name).of(image), np.asarray(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, "size is"),
        ({"resize": "letterbox"}, "resize is 'letterbox'"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_no_view_is(options, message):
    with pytest.raises(ValueError, match=message):
        View(**{"size": (3, 4), **options})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "fraction"), [("squash", 0.875), ("center_crop", 0.875), ("center_crop", 1.0)])
def test_evaluation_and_predict_see_the_same_pixels(rng, tmp_path, resize, fraction, interpolation, channels):
    """The JPEGs have several sizes; neither they nor the input of the network are square."""
    view = View((9, 13), resize, fraction, interpolation)
    files = []
    for index, shape in enumerate([(17, 40), (40, 17), (9, 13), (100, 77)]):
        files.append(tmp_path / f"{index}.jpg")
        as_picture(rng.integers(0, 256, (*shape, channels), np.uint8)).save(files[-1], quality=90)
    (batch,) = eval_batches(Files(files, channels), batch_size=4, view=view)
    for seen, file in zip(batch["image"], files, strict=True):
        np.testing.assert_array_equal(load_photo(file, view, channels), seen)
