import numpy as np
import pytest

from aa_flax.data import steps_per_epoch, train_batches
from aa_flax.data.array_source import ArraySource
from aa_flax.data.repeated import distinct_position

PLAIN = {"num_threads": 0, "prefetch": 0}


def numbered(count):
    """Return a source of `count` images whose grey level is their number."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 6, 6, 1))
    return ArraySource("numbered", images.copy(), {"label": np.zeros(count, np.int32)})


def test_the_map_by_hand():
    """Batches of 6 with 3 copies: 0 1 0 1 0 1, then 2 3 2 3 2 3."""
    assert [distinct_position(p, 6, 3) for p in range(14)] == [0, 1] * 3 + [2, 3] * 3 + [4, 5]
    assert [distinct_position(p, 4, 1) for p in range(9)] == [*range(9)]


@pytest.mark.few
@pytest.mark.parametrize(("count", "batch_size", "repeats"), [(40, 12, 3), (25, 8, 2), (30, 30, 10), (9, 4, 4)])
def test_each_epoch_has_each_of_its_images_as_often(take, count, batch_size, repeats):
    """An epoch has as many steps as without repetition, and the first steps · batch / repeats images of its order."""
    source, steps = numbered(count), steps_per_epoch(count, batch_size)
    options = {"batch_size": batch_size, "seed": 4, **PLAIN}
    batches = take(train_batches(source, **options, repeats=repeats), 3 * steps)
    plain = take(train_batches(source, **options), 3 * steps)
    distinct, seen = batch_size // repeats, []
    for epoch in range(3):
        part = slice(epoch * steps, (epoch + 1) * steps)
        order = np.concatenate([batch["index"] for batch in plain[part]])
        expected = order[: steps * distinct].reshape(steps, 1, distinct)
        found = np.stack([batch["index"] for batch in batches[part]]).reshape(steps, repeats, distinct)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))
        images, times = np.unique(found, return_counts=True)
        assert len(images) == steps * distinct and set(times) == {repeats}
        seen.append(found.tobytes())
    assert len(set(seen)) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        if distinct > 1:
            assert (batch["index"][0::2] != batch["index"][1::2]).all()  # neighbours, which mixup and cutmix pair


def test_copies_have_draws_of_their_own(take):
    """The shape of the padding shows the crop; three copies seldom draw the same of 49 offsets."""
    options = {"batch_size": 12, "seed": 1, "crop": "pad", "crop_padding": 3, "fill": (255,), **PLAIN}
    same = []
    for batch in take(train_batches(numbered(40), **options, repeats=3), 9):
        padding = (batch["image"] == 255).reshape(3, 4, -1)
        same += (padding[0] == padding[1]).all(-1).tolist() + (padding[1] == padding[2]).all(-1).tolist()
    assert np.mean(same) < 0.1


@pytest.mark.few
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_resuming_on_any_number_of_processes(take, processes):
    options = {"batch_size": 12, "seed": 7, "crop": "pad", "crop_padding": 2, "fill": (255,), "repeats": 3, **PLAIN}
    source = numbered(40)
    straight = take(train_batches(source, **options), 8)
    for start in (0, 2, 5):
        parts = [
            take(train_batches(source, **options, start_step=start, process_index=i, process_count=processes), 3)
            for i in range(processes)
        ]
        for step, pieces in zip(straight[start : start + 3], zip(*parts, strict=True), strict=True):
            for name, value in step.items():
                np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), value)


def test_repeats_must_divide_the_batch():
    for repeats in (0, 5):
        with pytest.raises(ValueError, match=f"repeats is {repeats}, expected a divisor of batch_size 12"):
            train_batches(numbered(40), batch_size=12, seed=0, repeats=repeats)
