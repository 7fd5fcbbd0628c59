"""Tests of the order in which folders with one split are stored."""

import collections

import numpy as np
import pytest
from PIL import Image

from aa_flax import data
from aa_flax.data.sets.even_order import even_order, random_order, rarest


def groups(rng):
    return rng.choice(5, 211, p=[0.5, 0.3, 0.15, 0.04, 0.01]).tolist()


def test_any_part_has_its_share_of_each_group(rng):
    of = groups(rng)
    order = even_order(of)
    assert sorted(order) == list(range(211)) and order == even_order(of) and order != sorted(order)
    sizes = collections.Counter(of)
    for start in range(0, 211, 13):
        for stop in range(start, 212, 17):
            part = collections.Counter(of[index] for index in order[start:stop])
            for group, size in sizes.items():
                assert abs(part[group] - size * (stop - start) / 211) < 2, (start, stop, group)
    assert {of[index] for index in order[-5:]} == {0, 1, 2, 3, 4}


def test_within_a_group_the_order_is_random(rng):
    order = even_order([0] * 40 + [1] * 40)
    first = [index for index in order if index < 40]
    assert first != sorted(first) and sorted(random_order(9)) == list(range(9))


def test_the_rarest_class_of_each_photograph():
    assert rarest([[0, 0, 1], [0], [], [0, 2], [2, 1]]) == [1, 0, -1, 2, 1]


@pytest.mark.thorough
def test_a_folder_with_one_split_is_stored_so_and_one_with_two_is_not(tmp_path):
    for split in ("one", "two/train", "two/val"):
        for label, (name, count) in enumerate({"a": 20, "b": 4, "c": 2}.items()):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (60 * label, number, 0)).save(folder / f"{number}.png")

    def labels(name, part):
        dataset = data.load(f"image_folder/{name}", data_dir=tmp_path / "tfds", source_dir=tmp_path / name)
        source = dataset.split(part)
        return dataset.folder.name, [int(source[k]["label"]) for k in range(len(source))]

    version, held_out = labels("one", "train[21:]")
    assert version == "1.1.0" and collections.Counter(held_out) == {0: 3, 1: 1, 2: 1}
    assert collections.Counter(labels("one", "train[:21]")[1]) == {0: 17, 1: 3, 2: 1}
    version, random = labels("two", "train")
    listed = np.repeat([0, 1, 2], [20, 4, 2])
    assert version == "1.0.0" and random == listed[np.random.default_rng(0).permutation(26)].tolist()
