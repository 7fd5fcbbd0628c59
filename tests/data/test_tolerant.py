import logging
import re
import threading

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from aa_flax.data import DataError, TolerantSource, load, train_batches
from aa_flax.data.array_source import ArraySource
from aa_flax.data.images import encode_png
from aa_flax.data.placement import resized
from aa_flax.data.source import Source

WINDOW = {"crop": "resized", "image_size": (4, 6)}


class Damaged(Source):
    """Source that never reads its `damaged` examples, and reads its `flaky` ones from the second time on."""

    def __init__(self, source, damaged, flaky=()):
        self.name, self.image_shape, self.target_shapes = source.name, source.image_shape, source.target_shapes
        self.source, self.damaged, self.flaky = source, set(damaged), set(flaky)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index in self.damaged or index in self.flaky:
            self.flaky.discard(index)
            raise DataError(f"some/file: example {index} of {self.name}: damaged record")
        return self.source[index]

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def cached(self):
        return ArraySource.of(self)


def test_the_next_readable_example_takes_the_place(toy):
    source = TolerantSource(Damaged(toy, {4, 5, 36}), 3)
    for index, other in ((3, 3), (4, 6), (5, 6), (6, 6), (36, 0)):
        example, part = source[index], source.part(index, resized((5, 7)))
        np.testing.assert_array_equal(example["image"], toy[other]["image"])
        np.testing.assert_array_equal(part["image"], toy[other]["image"])
        assert (example["label"], example["index"]) == (part["label"], part["index"]) == (toy[other]["label"], index)
    assert list(source.damaged) == [4, 5, 36]
    assert source.damaged[5] == "some/file: example 5 of toy: damaged record"
    assert [example["index"] for example in source.__getitems__([4, 2])] == [4, 2]
    for index in (-1, 37):
        with pytest.raises(IndexError, match=f"index {index}, expected 0 to 36"):
            source[index]


def test_one_more_than_the_budget_names_all(toy):
    source = TolerantSource(Damaged(toy, {9, 4, 20}), 2)
    source[9], source[9], source[4]
    with pytest.raises(DataError) as error:
        source[20]
    assert str(error.value) == (
        "some/file: example 20 of toy: damaged record; that makes 3 damaged examples, where 2 may be replaced: 4, 9, 20"
    )
    with pytest.raises(ValueError, match="budget is 0"):
        TolerantSource(toy, 0)


def test_a_source_without_a_readable_example_ends(toy):
    with pytest.raises(DataError, match="toy: not one of 37 examples can be read"):
        TolerantSource(Damaged(toy, range(37)), 37)[3]


def test_what_fails_once_is_not_damaged(toy):
    source = TolerantSource(Damaged(toy, (), flaky={8}), 1)
    np.testing.assert_array_equal(source[8]["image"], toy[8]["image"])
    assert source.damaged == {}


def test_each_is_logged_once(toy, caplog):
    source = TolerantSource(Damaged(toy, {4}), 2)
    with caplog.at_level(logging.WARNING, logger="absl"):
        threads = [threading.Thread(target=source.__getitem__, args=(4,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        "some/file: example 4 of toy: damaged record; the next example takes its place (1 of 2)"
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_same_on_any_number_of_processes(toy, take, count):
    """Pixels are equal too, because a substitute gets the crop that was drawn for the position in the batch."""
    options = {"batch_size": 12, "seed": 7, "num_threads": 0, "prefetch": 0, **WINDOW}
    whole = take(train_batches(TolerantSource(Damaged(toy, {4, 5, 36}, {1, 2, 3}), 3), **options), 7)
    sources = [TolerantSource(Damaged(toy, {4, 5, 36}), 3) for _ in range(count)]
    parts = [
        take(train_batches(source, **options, process_index=index, process_count=count), 7)
        for index, source in enumerate(sources)
    ]
    for step, expected in enumerate(whole):
        for name in expected:
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), expected[name])
    assert set().union(*(source.damaged for source in sources)) == {4, 5, 36}


def test_undamaged_data_is_left_alone(toy, take):
    options = {"batch_size": 12, "seed": 7, **WINDOW}
    for one, other in zip(
        take(train_batches(toy, **options), 4), take(train_batches(TolerantSource(toy, 5), **options), 4), strict=True
    ):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_cached_is_the_same_and_goes_on_counting(toy):
    source = TolerantSource(Damaged(toy, {4, 36}), 2)
    cached = source.cached()
    for one, other in zip(source, cached, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert (one["label"], one["index"]) == (other["label"], other["index"])
    assert list(cached.damaged) == [4, 36]
    with pytest.raises(DataError, match=r"2 damaged examples, where 1 may be replaced: (4, 36|36, 4)"):
        TolerantSource(Damaged(toy, {4, 36}), 1).cached()


def test_a_damaged_record_costs_itself_alone(fashion, tmp_path):
    """Records are stored one by one (`group_size:1`), so that no other record is lost."""
    dataset = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    (path,) = dataset.folder.glob("*-train.array_record*")
    assert re.search(r"\bgroup_size:1\b", ArrayRecordReader(str(path)).writer_options_string())
    content = bytearray(path.read_bytes())
    png = encode_png(fashion.train.images[17][..., None])
    content[content.index(png) + len(png) // 2] ^= 0x55
    path.write_bytes(content)
    source = TolerantSource(dataset.split("train"), 1)
    for index, example in enumerate(source):
        expected = fashion.train.images[18 if index == 17 else index]
        np.testing.assert_array_equal(example["image"][..., 0], expected)
    assert list(source.damaged) == [17] and str(path) in source.damaged[17]
