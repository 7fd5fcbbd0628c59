import gc
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aa_flax
from aa_flax.data import ClassLabel, DataError, eval_batches, steps_per_epoch, train_batches
from aa_flax.data.array_source import ArraySource
from aa_flax.data.source import Source
from aa_flax.data.view import View

ROOT = Path(aa_flax.__file__).parents[1]
PLAIN = {"num_threads": 0, "prefetch": 0}
CROPS = {
    "none": {},
    "pad": {"crop": "pad", "crop_padding": 2, "fill": (9, 8, 7)},
    "resized": {"crop": "resized", "image_size": (4, 6)},
}


def numbered(count):
    """Return a source of `count` images; the pixels of image i are the bytes of i."""
    images = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 2, 2, 1)
    return ArraySource("numbered", images.copy(), {"label": np.arange(count, dtype=np.int32) % 3})


def orders(source, epochs, **options):
    steps = steps_per_epoch(len(source), options["batch_size"])
    with train_batches(source, **PLAIN, **options) as batches:
        return [np.concatenate([next(batches)["index"] for _ in range(steps)]).tolist() for _ in range(epochs)]


@pytest.mark.thorough
@settings(max_examples=12, deadline=None)
@given(st.integers(2, 60), st.data())
def test_each_epoch_is_part_of_a_permutation(count, data):
    batch_size = data.draw(st.integers(1, count))
    for order in orders(numbered(count), 3, batch_size=batch_size, seed=data.draw(st.integers(0, 2**40))):
        assert len(set(order)) == len(order) == count // batch_size * batch_size
        assert set(order) <= set(range(count))


def test_orders_differ_between_epochs_and_seeds():
    # 8 orders of 50 examples hardly agree by chance. Neighbouring seeds share none either.
    everything = [tuple(order) for seed in (0, 1) for order in orders(numbered(50), 4, batch_size=25, seed=seed)]
    assert len(set(everything)) == 8


def test_the_remainder_differs_between_epochs():
    left_out = [frozenset(range(50)) - set(order) for order in orders(numbered(50), 6, batch_size=40, seed=5)]
    assert len(set(left_out)) > 1


def test_same_seed_same_order():
    assert orders(numbered(50), 3, batch_size=7, seed=3) == orders(numbered(50), 3, batch_size=7, seed=3)


@pytest.mark.thorough
def test_order_is_uniform_enough():
    """In 60 epochs the first eighth of the examples is spread evenly over the eighths of the epoch."""
    epochs = orders(numbered(64), 60, batch_size=64, seed=2)
    places = [order.index(number) // 8 for order in epochs for number in range(8)]
    # About binomial(480, 1/8): mean 60, standard deviation 7.2; five of them.
    assert np.abs(np.bincount(places, minlength=8) - 60).max() < 37


def test_contents_belong_to_the_index(toy, take):
    for batch in take(train_batches(toy, batch_size=11, seed=0, **PLAIN), 7):
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["index"].dtype == np.int32
        assert batch["image"].shape == (11, 5, 7, 3)
        for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
            np.testing.assert_array_equal(image, toy[int(index)]["image"])
            assert label == toy[int(index)]["label"]


def same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.few
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_reads_one_order(toy, take, crop, count):
    # 37 examples in batches of 12: three steps an epoch, so seven steps reach the third.
    options = {"batch_size": 12, "seed": 7, **CROPS[crop], **PLAIN}
    whole = take(train_batches(toy, **options), 7)
    parts = [take(train_batches(toy, **options, process_index=index, process_count=count), 7) for index in range(count)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    same(whole, joined)


@pytest.mark.few(2)
@pytest.mark.parametrize("crop", CROPS)
def test_resuming_equals_continuing(toy, take, crop):
    options = {"batch_size": 12, "seed": 7, **CROPS[crop], **PLAIN}
    straight = take(train_batches(toy, **options), 9)
    for start in (1, 3, 5):
        same(straight[start:], take(train_batches(toy, **options, start_step=start), 9 - start))
        resumed = take(train_batches(toy, **options, start_step=start, process_index=1, process_count=3), 2)
        same([{name: value[4:8] for name, value in batch.items()} for batch in straight[start : start + 2]], resumed)


@pytest.mark.few
@pytest.mark.parametrize("crop", CROPS)
def test_threads_change_nothing(toy, take, crop):
    options = {"batch_size": 12, "seed": 7, **CROPS[crop]}
    plain = take(train_batches(toy, **options, **PLAIN), 9)
    same(plain, take(train_batches(toy, **options, num_threads=3, prefetch=5), 9))
    same(plain, take(train_batches(toy, **options), 9))


@pytest.mark.thorough
def test_threads_read_records_as_one_thread_does(embedded, take):
    options = {"batch_size": 50, "seed": 7, "crop": "pad", "fill": embedded.mean_pixel}
    source = embedded.split("test[:200]")
    plain = take(train_batches(source.cached(), **options, **PLAIN), 6)
    same(plain, take(train_batches(source, **options, num_threads=4, prefetch=6), 6))


def test_crops_differ_between_examples_and_epochs(toy):
    seen = {}
    with train_batches(toy, batch_size=37, seed=1, **CROPS["pad"], **PLAIN) as batches:
        for _ in range(4):
            batch = next(batches)
            for image, index in zip(batch["image"], batch["index"], strict=True):
                seen.setdefault(int(index), []).append(image.tobytes())
    # 25 offsets: that all four agree has probability 1 / 15625 for an example.
    assert sum(len(set(images)) == 1 for images in seen.values()) <= 1


def test_a_far_step(toy, take):
    (batch,) = take(train_batches(toy, batch_size=12, seed=7, start_step=10**9, **PLAIN), 1)
    assert len(set(batch["index"].tolist())) == 12


@pytest.mark.parametrize("crop", CROPS)
def test_image_size(toy, take, crop):
    options = {**CROPS[crop], "image_size": (4, 6)}
    (batch,) = take(train_batches(toy, batch_size=3, seed=0, **options, **PLAIN), 1)
    assert batch["image"].shape == (3, 4, 6, 3)


def test_steps_per_epoch():
    assert [steps_per_epoch(10, size) for size in (1, 3, 5, 10)] == [10, 3, 2, 1]
    for size in (0, 11):
        with pytest.raises(DataError, match=f"batch_size is {size}, expected 1 to 10"):
            steps_per_epoch(10, size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "pad"}, r"fill is None, expected 3 values"),
        ({"crop": "pad", "fill": (1,)}, r"fill is \(1,\), expected 3 values"),
        ({"crop": "pad", "fill": (1, 2, 256)}, "expected 3 values of 0 to 255"),
        ({"crop": "pad", "fill": (1, 2, 3), "crop_padding": 6}, "crop_padding is 6, expected 1 to 5"),
        ({"process_count": 5}, "batch_size is 12, expected a multiple of process_count 5"),
        ({"process_count": 2, "process_index": 2}, "process_index is 2 of process_count 2"),
        ({"seed": -1}, "seed and start_step must be 0 or more, got -1 and 0"),
        ({"start_step": -1}, "got 0 and -1"),
        ({"image_size": (0, 3)}, r"image_size is \(0, 3\)"),
    ],
)
def test_wrong_arguments(toy, options, message):
    with pytest.raises(ValueError, match=message):
        train_batches(toy, **{"batch_size": 12, "seed": 0, **options})


def test_images_of_several_sizes_need_a_size(toy, take):
    toy.image_shape = (None, None, 3)
    for make, sized in (
        (lambda **o: train_batches(toy, batch_size=4, seed=0, **o), {"image_size": (4, 6)}),
        (lambda **o: eval_batches(toy, batch_size=4, **o), {"view": View((4, 6))}),
    ):
        with pytest.raises(DataError, match="toy: images differ in size, so their size must be given"):
            make()
        assert take(make(**sized), 1)[0]["image"].shape == (4, 4, 6, 3)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from([1, 2, 4]))
def test_evaluation_sees_each_example_once(count, local, processes):
    source = numbered(count)
    parts = [
        list(eval_batches(source, batch_size=local * processes, process_index=index, process_count=processes, **PLAIN))
        for index in range(processes)
    ]
    assert {len(part) for part in parts} == {-(-count // (local * processes))}
    batches = [batch for step in zip(*parts, strict=True) for batch in step]
    assert {batch["image"].shape for batch in batches} == {(local, 2, 2, 1)}
    seen = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    # The order is that of the data, so that predictions can be written beside it.
    assert seen.tolist() == list(range(count))
    for batch in batches:
        assert batch["mask"].dtype == bool
        assert batch["label"].dtype == batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"][batch["mask"]], batch["index"][batch["mask"]] % 3)
        np.testing.assert_array_equal(batch["index"][~batch["mask"]], -1)
        assert not batch["image"][~batch["mask"]].any()


@pytest.mark.parametrize("resize", ["squash", "center_crop"])
def test_evaluation_resizes(toy, resize):
    batches = list(eval_batches(toy, batch_size=20, view=View((9, 4), resize)))
    assert [batch["image"].shape for batch in batches] == [(20, 9, 4, 3)] * 2
    assert [int(batch["mask"].sum()) for batch in batches] == [20, 17]


def test_evaluation_without_a_view_leaves_images_alone(toy):
    (batch,) = eval_batches(toy, batch_size=37)
    np.testing.assert_array_equal(batch["image"], np.stack([example["image"] for example in toy]))


class Faulty(Source):
    name, image_shape, target_shapes = "faulty", (2, 2, 1), ClassLabel.shapes

    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise DataError(f"some/file: example {index} of faulty: damaged record")

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def cached(self):
        return self


@pytest.mark.parametrize("threads", [0, 2])
def test_a_fault_reaches_the_caller(threads):
    for make in (
        lambda: train_batches(Faulty(), batch_size=4, seed=0, num_threads=threads),
        lambda: eval_batches(Faulty(), batch_size=4, num_threads=threads),
    ):
        with make() as batches, pytest.raises(DataError) as error:
            next(batches)
        assert re.fullmatch(r"some/file: example \d of faulty: damaged record", str(error.value))


def prefetch_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")}


@pytest.mark.parametrize("end", ["close", "drop"])
def test_threads_end(toy, end):
    before = prefetch_threads()  # threads of earlier tests may end at any time
    batches = train_batches(toy, batch_size=4, seed=0, num_threads=2, prefetch=4)
    next(batches)
    started = prefetch_threads() - before
    assert started
    if end == "close":
        batches.close()
        with pytest.raises(Exception, match="closed"):
            next(batches)
    del batches
    gc.collect()
    deadline = time.monotonic() + 10
    while any(thread.is_alive() for thread in started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in started)


def test_a_program_that_forgets_to_close_ends():
    code = (
        "import numpy as np; from aa_flax.data import train_batches; from aa_flax.data.array_source import ArraySource;"
        "s = ArraySource('s', np.zeros((90, 8, 8, 3), np.uint8), {'label': np.zeros(90)});"
        "b = train_batches(s, batch_size=9, seed=0, num_threads=2); next(b); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
