import collections

import numpy as np
import pytest

from aa_flax.data import train_batches
from aa_flax.data.augment import image_ops, rand_augment
from aa_flax.data.augment.rand_augment import OPERATIONS, Setting
from aa_flax.data.augment.three_augment import three_augment

FILL = (9, 8, 7)
CROPPED = {"batch_size": 12, "seed": 7, "crop": "pad", "crop_padding": 2, "fill": FILL, "num_threads": 0, "prefetch": 0}
augment = rand_augment.rand_augment(fill=FILL, magnitude=7.0)


def test_the_operations_of_the_paper():
    colours = ["solarize", "color", "posterize", "contrast", "brightness", "sharpness"]
    moves = ["shear_x", "shear_y", "translate_x", "translate_y"]
    assert list(OPERATIONS) == ["identity", "auto_contrast", "equalize", "rotate", *colours, *moves]


def by_table(name, magnitude, sign, increasing):
    """Return the arguments of an operation of `image_ops` by the table in the docstring of `rand_augment`."""
    m = magnitude / 10
    if name in ("auto_contrast", "equalize"):
        return ()
    if name == "rotate":
        return sign * 30 * m, FILL
    if name.startswith("shear"):
        return sign * 0.3 * m, FILL
    if name.startswith("translate"):
        return sign * 0.45 * m, FILL
    if name == "solarize":
        return (int(256 - np.floor(256 * m)) if increasing else int(256 * m),)
    if name == "posterize":
        return (int(4 - np.floor(4 * m)) if increasing else int(4 + 4 * m),)
    return (1 + sign * 0.9 * m if increasing else 0.1 + 1.8 * m,)


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 9.0])
def test_ranges(rng, magnitude, increasing):
    image = rng.integers(30, 201, (13, 17, 3), np.uint8)
    for name, operation in OPERATIONS.items():
        for sign in (1, -1):
            found = operation(image, Setting(magnitude / 10, sign, increasing, FILL))
            expected = image
            if name != "identity":
                expected = getattr(image_ops, name)(image, *by_table(name, magnitude, sign, increasing))
            np.testing.assert_array_equal(found, expected, err_msg=name)
            unchanged = magnitude == 0 and (increasing or name.startswith(("rotate", "shear", "translate")))
            if unchanged and name not in ("auto_contrast", "equalize", "posterize"):
                np.testing.assert_array_equal(found, image, err_msg=name)


def test_ranges_end(rng):
    """Beyond magnitude 10, settings stay at the end of their range: an image stays whole, or keeps one bit."""
    image = rng.integers(30, 201, (5, 7, 3), np.uint8)
    for increasing, kept in ((False, image), (True, image // 128 * 128)):
        np.testing.assert_array_equal(OPERATIONS["posterize"](image, Setting(2.8, 1, increasing, FILL)), kept)
    np.testing.assert_array_equal(OPERATIONS["solarize"](image, Setting(2.8, 1, False, FILL)), image)
    np.testing.assert_array_equal(OPERATIONS["solarize"](image, Setting(2.8, 1, True, FILL)), 255 - image)
    darker = OPERATIONS["brightness"](image, Setting(2.8, -1, True, FILL))
    np.testing.assert_allclose(darker, image * 0.1, atol=1)


def recorded(monkeypatch, **options):
    """Return the (name, setting) pairs of the operations that 400 images get."""
    calls = []

    def record(name):
        def stub(image, setting):
            calls.append((name, setting))
            return image

        return stub

    monkeypatch.setattr(rand_augment, "OPERATIONS", {name: record(name) for name in OPERATIONS})
    run = rand_augment.rand_augment(fill=FILL, **options)
    rng, image = np.random.default_rng(0), np.zeros((2, 2, 3), np.uint8)
    for _ in range(400):
        assert run(image, rng) is image
    return calls


def test_operations_are_drawn_uniformly(monkeypatch):
    calls = recorded(monkeypatch, operations=7, magnitude=9.0)
    assert len(calls) == 2800
    counts = collections.Counter(name for name, _ in calls)
    # Binomial(2800, 1/14): standard deviation 13.6; five of them. Signs: binomial(2800, 1/2), 26.5.
    assert len(counts) == 14 and max(abs(count - 200) for count in counts.values()) < 68
    assert abs(sum(setting.sign == 1 for _, setting in calls) - 1400) < 132
    assert {setting._replace(sign=1) for _, setting in calls} == {Setting(0.9, 1, False, FILL)}


def test_magnitudes_spread_and_operations_are_skipped(monkeypatch):
    calls = recorded(monkeypatch, magnitude=9.0, magnitude_std=0.5, increasing=True, probability=0.25)
    # Binomial(800, 1/4): standard deviation 12.2; five of them.
    assert abs(len(calls) - 200) < 61 and all(setting.increasing for _, setting in calls)
    levels = np.array([setting.level for _, setting in calls])
    # N(0.9, 0.05²) clipped at 1, two standard deviations up.
    assert levels.max() == 1.0 and abs(levels.mean() - 0.9) < 0.02 and abs(levels.std() - 0.05) < 0.01
    assert recorded(monkeypatch, probability=0.0) == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("function", [augment, three_augment])
def test_what_comes_out(rng, channels, function):
    image = rng.integers(0, 256, (9, 11, channels), np.uint8)
    if function is augment:
        function = rand_augment.rand_augment(fill=FILL[:channels], operations=3)
    original, results = image.copy(), set()
    for seed in range(40):
        result = function(image, np.random.default_rng(seed))
        assert (result.shape, result.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(result, function(image, np.random.default_rng(seed)))
        results.add(result.tobytes())
    assert len(results) > 12
    np.testing.assert_array_equal(image, original)


def test_three_augment(rng):
    """One of three operations is applied, each a third of the time; only the blur draws a parameter."""
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    known = {image_ops.grayscale(image).tobytes(): "grey", image_ops.solarize(image, 128).tobytes(): "solarized"}
    names, blurred = [], []
    for seed in range(600):
        result = three_augment(image, np.random.default_rng(seed))
        names.append(known.get(result.tobytes(), "blurred"))
        if names[-1] == "blurred":
            blurred.append(result.std())
    # Binomial(600, 1/3): standard deviation 11.5; five of them.
    assert all(abs(count - 200) < 58 for count in collections.Counter(names).values()) and len(set(names)) == 3
    most, least = (image_ops.gaussian_blur(image, radius).std() for radius in (0.1, 2.0))
    assert max(blurred) <= most and min(blurred) >= least and np.ptp(blurred) > 0.9 * (most - least)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": 0}, "operations is 0, expected at least 1"),
        ({"magnitude": -1.0}, "magnitude is -1.0, expected at least 0"),
        ({"magnitude_std": -0.5}, "magnitude_std is -0.5, expected at least 0"),
        ({"probability": 1.5}, r"probability is 1.5, expected a number in \[0, 1\]"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        rand_augment.rand_augment(fill=FILL, **options)


@pytest.mark.parametrize("function", [augment, three_augment])
def test_in_the_pipeline(toy, take, function):
    """The crops are those without augmentation, and the results are the same on several processes and on resumption."""
    crops = []

    def remember(image, rng):
        crops.append(image)
        return function(image, rng)

    straight = take(train_batches(toy, **CROPPED, augment=remember), 4)
    for batch, kept, plain in zip(
        straight, np.stack(crops).reshape(-1, 12, 5, 7, 3), take(train_batches(toy, **CROPPED), 4), strict=True
    ):
        np.testing.assert_array_equal(kept, plain["image"])
        np.testing.assert_array_equal(batch["index"], plain["index"])
        assert (batch["image"] != plain["image"]).any((1, 2, 3)).mean() > 0.4
    for index in range(3):
        part = take(
            train_batches(toy, **CROPPED, augment=function, start_step=2, process_index=index, process_count=3), 2
        )
        for batch, piece in zip(straight[2:], part, strict=True):
            np.testing.assert_array_equal(piece["image"], batch["image"][4 * index : 4 * index + 4])
