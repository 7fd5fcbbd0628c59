"""Tests of label maps as targets, and of how they lie on a canvas."""

import numpy as np
import pytest

from aa_flax.data import TolerantSource, eval_batches, train_batches
from aa_flax.data.array_source import ArraySource
from aa_flax.data.label_maps import LabelMap, decode_label_map, encode_label_map, is_mixed
from aa_flax.data.placement import Placement, resized, scaled
from aa_flax.data.view import View


class Maps(ArraySource):
    """Photographs whose red is their label, and 255 where their green is 1."""

    def __init__(self, images):
        labels = np.empty(len(images), object)
        for number, image in enumerate(images):
            labels[number] = np.where(image[..., 1] == 1, 255, image[..., 0]).astype(np.uint8)
        targets = LabelMap((9, 9))
        super().__init__("maps", images, {"labels": labels}, targets.placed)
        self.target_shapes, self.read_shapes, self.maps = targets.shapes, targets.read_shapes, targets.maps


@pytest.fixture
def source():
    rng = np.random.default_rng(5)
    sizes = [(13, 17), (7, 11), (23, 5), (11, 11), (19, 29)]
    return Maps([rng.integers(0, 2, (*size, 3), np.uint8) * np.array([7, 1, 0], np.uint8) for size in sizes])


def nearest(labels, placement):
    """Return the map of what is seen, pixel by pixel."""
    left, upper, right, lower = (float(np.float32(side)) for side in placement.window)  # as batches have it
    height, width = placement.size
    seen = np.empty((height, width), np.uint8)
    for i in range(height):
        for j in range(width):
            y, x = upper + (i + 0.5) * (lower - upper) / height, left + (j + 0.5) * (right - left) / width
            seen[i, j] = labels[min(int(y), labels.shape[0] - 1), min(int(x), labels.shape[1] - 1)]
    return seen


def test_each_pixel_has_the_label_in_which_its_centre_lies():
    rng = np.random.default_rng(0)
    for _ in range(40):
        photo = tuple(int(side) for side in rng.integers(3, 40, 2))
        labels = rng.integers(0, 256, photo, np.uint8)
        frame = scaled((13, 17), rng.uniform(0.3, 3), tuple(rng.random(2))) if rng.random() < 0.7 else resized((7, 11))
        placement = frame(*photo)
        placed = LabelMap((13, 17)).placed({"labels": labels}, placement.as_array())["labels"]
        assert placed.dtype == np.uint8 and placed.shape == placement.size
        np.testing.assert_array_equal(placed, nearest(labels, placement))
    whole = resized(photo)(*photo).as_array()
    np.testing.assert_array_equal(LabelMap().placed({"labels": labels}, whole)["labels"], labels)


def test_a_map_lies_where_its_photograph_lies(source):
    """A photograph whose pixels are enlarged by whole numbers has its labels at its pixels."""
    for factor in (1, 3):
        image, labels = source[0]["image"], source[0]["labels"]
        height, width = labels.shape
        placement = Placement(
            (0.0, 0.0, float(width), float(height)), (height * factor, width * factor), (99, 99), (height, width)
        )
        placed = LabelMap((99, 99)).placed({"labels": labels}, placement.as_array())["labels"]
        np.testing.assert_array_equal(placed, labels.repeat(factor, 0).repeat(factor, 1))
        assert image.shape[:2] == labels.shape


def test_a_map_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="a label map of 5 × 4 for an image of 4 × 5"):
        LabelMap().placed({"labels": np.zeros((4, 5), np.uint8)}, resized((3, 3))(5, 4).as_array())


def test_batches_pad_images_with_black_and_maps_with_no_class(source):
    view = View((16, 21), "fit")
    with eval_batches(source, batch_size=3, view=view, num_threads=0) as batches:
        found = list(batches)
    assert [batch["labels"].shape for batch in found] == [(3, 16, 21)] * 2 and found[0]["labels"].dtype == np.uint8
    seen = 0
    for batch in found:
        for row in range(3):
            if not batch["mask"][row]:
                assert (batch["labels"][row] == 255).all()
                continue
            seen += 1
            index = int(batch["index"][row])
            placement = view.framing(*source[index]["image"].shape[:2])
            (height, width), labels = placement.size, batch["labels"][row]
            assert (height, width) == tuple(batch["placement"][row, 4:6])
            assert (labels[height:] == 255).all() and (labels[:, width:] == 255).all()
            np.testing.assert_array_equal(
                labels[:height, :width],
                LabelMap().placed({"labels": source.targets(index)["labels"]}, placement.as_array())["labels"],
            )
    assert seen == len(source)


def test_training_batches_of_any_size_have_maps_of_that_size(source):
    for size in ((8, 12), (21, 5)):
        with train_batches(source, batch_size=2, seed=3, image_size=size, crop="scaled", num_threads=0) as batches:
            batch = next(batches)
        assert batch["image"].shape == (2, *size, 3) and batch["labels"].shape == (2, *size)
        for row, placement in enumerate(batch["placement"]):
            height, width = placement[4:6].astype(int)
            expected = LabelMap().placed({"labels": source[int(batch["index"][row])]["labels"]}, placement)["labels"]
            np.testing.assert_array_equal(batch["labels"][row, :height, :width], expected)
            assert not batch["image"][row, height:].any() and (batch["labels"][row, height:] == 255).all()


def test_maps_of_a_source_that_replaces_damaged_examples(source):
    tolerant = TolerantSource(source, 1)
    for one in (tolerant, tolerant.cached()):
        with train_batches(one, batch_size=5, seed=3, image_size=(8, 12), crop="scaled", num_threads=0) as batches:
            batch = next(batches)
        assert batch["labels"].shape == (5, 8, 12) and set(np.unique(batch["labels"])) == {0, 7, 255}
        np.testing.assert_array_equal(one.targets(2)["labels"], source[2]["labels"])


def test_cached_maps_are_the_same(source):
    held = ArraySource.of(source)
    assert (held.maps, held.read_shapes, held.target_shapes) == (source.maps, source.read_shapes, source.target_shapes)
    for one, other in zip(source, held, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
    assert held.part(2, resized((4, 3)))["labels"].shape == (4, 3)
    assert [each.shape for each in held.all_targets()["labels"]] == [each["labels"].shape for each in source]


def test_encoded_maps():
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(decode_label_map(encode_label_map(labels)), labels)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_label_map(encode_label_map(labels)[:40])


def test_most_of_one_class():
    labels = np.array([[0, 0, 0, 1], [255, 255, 255, 255]], np.uint8)
    assert not is_mixed(labels, 0.75) and is_mixed(labels, 0.76)  # 3 of 4, those of no class not counted
    assert not is_mixed(np.full((3, 3), 255, np.uint8), 0.75) and not is_mixed(np.zeros((3, 3), np.uint8), 1.0)


def largest_part(labels):
    counts = np.bincount(labels[labels != 255], minlength=1)
    return counts.max() / max(1, counts.sum())


@pytest.fixture
def striped():
    """Photographs whose left 80 % is one class and whose rest is another; and two of one class alone."""
    images = [np.zeros((23, 50, 3), np.uint8) for _ in range(8)]
    for image in images[2:]:
        image[:, 40:, 0] = 7
    return Maps(images)


def test_crops_in_which_one_class_has_too_much_are_drawn_again(striped):
    options = dict(batch_size=8, seed=1, image_size=(16, 16), crop="scaled", scale_range=(0.9, 1.1), num_threads=0)
    options |= dict(scale_sides=(24, 99))

    def crops(most, epochs=4, **more):
        with train_batches(striped, **options, most_of_one_class=most, **more) as batches:
            found = [next(batches) for _ in range(epochs)]
        return {k: np.concatenate([batch[k] for batch in found]) for k in found[0]}

    every, chosen = crops(1.0), crops(0.75)
    of_two = chosen["index"] > 1
    np.testing.assert_array_equal(every["index"], chosen["index"])
    parts, before = ([largest_part(labels) for labels in each["labels"][of_two]] for each in (chosen, every))
    assert np.mean(np.array(before) < 0.75) < 0.4 and np.mean(np.array(parts) < 0.75) > 0.85
    # The scale stays, and so does a crop that was good at first; without a good one the last is taken.
    np.testing.assert_array_equal(chosen["placement"][:, 4:6], every["placement"][:, 4:6])
    good = np.flatnonzero(of_two)[np.array(before) < 0.75]
    np.testing.assert_array_equal(chosen["placement"][good], every["placement"][good])
    assert (chosen["placement"][~of_two] != every["placement"][~of_two]).any(1).all()
    # Images and labels lie alike.
    labels = np.where(chosen["image"][..., 0] == 7, 7, 0)
    assert (labels == chosen["labels"])[of_two].mean() > 0.93  # bilinear at the edge
    # The same on two processes, and after resuming.
    halves = [crops(0.75, 1, process_index=k, process_count=2, start_step=3)["labels"] for k in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), chosen["labels"][24:32])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "none", "most_of_one_class": 0.5}, "go with crop 'scaled', got crop 'none'"),
        ({"crop": "none", "scale_sides": (3, 4)}, "go with crop 'scaled', got crop 'none'"),
        ({"scale_sides": (5, 4)}, r"scale_sides is \(5, 4\)"),
        ({"scale_sides": (5,)}, r"scale_sides is \(5,\)"),
        ({"most_of_one_class": 0.0}, "most_of_one_class is 0.0"),
    ],
)
def test_options_of_crops(options, message, striped):
    options = {"crop": "scaled", **options}
    with pytest.raises(ValueError, match=message):
        train_batches(striped, batch_size=2, seed=0, image_size=(9, 9), **options)


def test_one_class_needs_a_label_map():
    plain = ArraySource("plain", np.zeros((3, 9, 9, 3), np.uint8), {"label": np.zeros(3, np.int32)})
    with pytest.raises(ValueError, match="the images of plain have no label map"):
        train_batches(plain, batch_size=2, seed=0, crop="scaled", most_of_one_class=0.5)


@pytest.mark.parametrize(
    ("photo", "canvas", "sides", "whole", "size"),
    [
        ((600, 800), (512, 512), (512, 2048), False, (512, 512)),  # 512 × 683, cut
        ((600, 800), (700, 700), (512, 2048), True, (512, 683)),
        ((600, 800), (512, 512), (512, 2048), True, (384, 512)),  # no room
        ((300, 3000), (512, 2048), (512, 2048), True, (205, 2048)),  # the longer side at most 2048
        ((480, 640), (1344, 1344), (800, 1333), True, (800, 1067)),
        ((640, 427), (1344, 1344), (800, 1333), True, (1199, 800)),
        ((640, 427), (100, 100), (), True, (100, 67)),
    ],
)
def test_sides_at_scale_1(photo, canvas, sides, whole, size):
    assert scaled(canvas, sides=sides, whole=whole)(*photo).size == size
    if whole:
        assert View(canvas, "fit", sides=sides).framing(*photo).size == size
