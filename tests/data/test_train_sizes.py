"""Tests of batches whose size changes from step to step."""

import itertools

import numpy as np
import pytest

from aa_flax.data import train_batches
from aa_flax.data.train_sizes import largest, size_of_step

SIZES = ((4, 6), (8, 3), (5, 5))
OPTIONS = {"batch_size": 12, "seed": 7, "sizes": SIZES}
PLAIN = {"num_threads": 0, "prefetch": 0}
CROPS = {
    "resized": {"crop": "resized"},
    "scaled": {"crop": "scaled"},
    "pad": {"crop": "pad", "crop_padding": 2, "fill": (9, 8, 7)},
    "augmented": {"crop": "scaled", "augment": lambda image, rng: image[::-1]},
}


def test_every_step_has_one_of_the_sizes():
    """The draws are the seed's and the step's; over 3000 steps each size comes a third of the time, in no order."""
    drawn = [size_of_step(SIZES, 7, step) for step in range(3000)]
    assert drawn == [size_of_step(SIZES, 7, step) for step in range(3000)]
    for size in SIZES:
        assert abs(drawn.count(size) - 1000) < 130  # five standard deviations
    follows = [one == other for one, other in itertools.pairwise(drawn)]
    assert abs(sum(follows) - 1000) < 130
    other = [size_of_step(SIZES, 8, step) for step in range(3000)]
    assert abs(sum(one == two for one, two in zip(drawn, other, strict=True)) - 1000) < 130


def test_the_draws_stay_those_of_earlier_runs():
    """A run that goes on with another version must see the sizes that it would have seen."""
    assert [SIZES.index(size_of_step(SIZES, 0, step)) for step in range(12)] == FIRST


FIRST = [2, 1, 0, 0, 2, 1, 1, 0, 1, 0, 2, 1]


def test_a_size_listed_twice_comes_twice_as_often():
    drawn = [size_of_step(((4, 6), (8, 3), (4, 6)), 1, step) for step in range(3000)]
    assert abs(drawn.count((4, 6)) - 2000) < 130 and largest(SIZES) == (5, 5)


def same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("crop", CROPS)
def test_batches_have_them(toy, take, crop):
    """Each batch is the one that its size alone would give, with the same examples and draws."""
    options = {**OPTIONS, **CROPS[crop], **PLAIN}
    found = take(train_batches(toy, **options), 7)
    assert {batch["image"].shape[1:3] for batch in found} == {*SIZES}
    alone = {size: take(train_batches(toy, **{**options, "sizes": (), "image_size": size}), 7) for size in SIZES}
    same(found, [alone[size_of_step(SIZES, 7, step)][step] for step in range(7)])


@pytest.mark.parametrize("crop", ["resized", "scaled"])
def test_resuming_threads_and_processes_change_nothing(toy, take, crop):
    options = {**OPTIONS, **CROPS[crop]}
    straight = take(train_batches(toy, **options, **PLAIN), 9)
    same(straight, take(train_batches(toy, **options, num_threads=3, prefetch=5), 9))
    for start in (1, 5):
        same(straight[start:], take(train_batches(toy, **options, **PLAIN, start_step=start), 9 - start))
        process = {"start_step": start, "process_index": 1, "process_count": 3}
        resumed = take(train_batches(toy, **options, **PLAIN, **process), 4)
        parts = [{name: values[4:8] for name, values in batch.items()} for batch in straight[start : start + 4]]
        same(parts, resumed)


def test_memory_is_used_again_for_all_sizes(toy):
    """Once it is enough for the largest size, the memory of a batch serves every one."""
    with train_batches(toy, **OPTIONS, crop="resized", **PLAIN) as batches:
        for _ in range(8):
            next(batches)  # released at once
        places = {next(batches)["image"].ctypes.data for _ in range(9)}
    assert len(places) == 1
