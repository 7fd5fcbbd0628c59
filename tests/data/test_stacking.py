"""Tests of batches: values, padding, and memory that is used again but never while somebody holds it."""

import gc

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.data import train_batches
from aa_flax.data.stacking import Stacked


def batches(sizes, batch_size=2, size=(4, 6), channels=3):
    def example(i):
        height, width = sizes[i % len(sizes)]
        return {
            "image": np.full((height, width, channels), i + 1, np.uint8),
            "index": np.int32(i),
            "box": np.ones(2) * i,
        }

    return Stacked(grain.MapDataset.range(len(sizes)).map(example), batch_size, lambda position: size)


def test_images_lie_on_black(rng):
    dataset = batches([(4, 6), (2, 6), (4, 3), (1, 1), (3, 5)])
    assert len(dataset) == 2
    for _ in range(3):  # whatever was in the memory before
        for number in range(2):
            batch = dataset[number]
            assert batch["image"].shape == (2, 4, 6, 3) and batch["image"].dtype == np.uint8
            assert batch["index"].dtype == np.int32 and batch["index"].tolist() == [2 * number, 2 * number + 1]
            np.testing.assert_array_equal(batch["box"], np.array([[2 * number] * 2, [2 * number + 1] * 2]))
            for place, i in enumerate(batch["index"]):
                height, width = [(4, 6), (2, 6), (4, 3), (1, 1)][i]
                expected = np.zeros((4, 6, 3), np.uint8)
                expected[:height, :width] = i + 1
                np.testing.assert_array_equal(batch["image"][place], expected)
    assert dataset.batch(1)[0]["image"].shape == (1, 2, 4, 6, 3)  # it is a data set of Grain


def test_an_image_larger_than_its_batch():
    with pytest.raises(ValueError, match="could not broadcast"):
        batches([(4, 6), (5, 6)])[0]


@pytest.mark.parametrize("held", ["array", "view", "jax", "transposed"])
def test_memory_is_used_again_when_nobody_holds_it(held):
    dataset = batches([(4, 6)] * 8)
    batch = dataset[0]["image"]
    place = batch.ctypes.data
    kept = {
        "array": lambda x: x,
        "view": lambda x: x[1:, 2:],
        "jax": lambda x: jax.device_put(x),
        "transposed": lambda x: np.asarray(memoryview(x)).transpose(3, 0, 1, 2),
    }[held](batch)
    copy = np.array(kept)
    del batch
    others = [dataset[number]["image"] for number in (1, 2, 3)]
    np.testing.assert_array_equal(np.asarray(kept), copy)
    places = {other.ctypes.data for other in others}
    assert len(places) == 3 and (held == "jax" or place not in places)
    del kept, others
    gc.collect()
    assert dataset[1]["image"].ctypes.data in places | {place}
    assert int(jnp.sum(dataset[1]["image"])) == 72 * 3 + 72 * 4


def test_padding_is_the_same_before_and_after_stacking(toy, take):
    """With an augmentation, which may change the padding too, each image is padded before it."""
    options = {"batch_size": 4, "seed": 3, "image_size": (11, 9), "crop": "scaled", "num_threads": 0, "prefetch": 0}
    late = take(train_batches(toy, **options), 3)
    early = take(train_batches(toy, augment=lambda image, rng: image, **options), 3)
    assert any((batch["image"][:, -1] == 0).all() for batch in late)
    for one, other in zip(late, early, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
