import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.data.augment.erasing import cutout, random_erasing

KEY = jax.random.key(3)


@pytest.fixture
def images(rng):
    return rng.normal(size=(13, 5, 7, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_cutout_zeroes_one_clipped_square(size):
    images = jnp.ones((400, 5, 7, 3), jnp.bfloat16)
    result = jax.jit(cutout, static_argnames="size")(KEY, images, size=size)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    holes = np.asarray(result, np.float32) == 0
    assert (holes == holes[..., :1]).all()
    possible = {}
    for row in range(5):
        for column in range(7):
            hole = np.zeros((5, 7), bool)
            top, left = row - size // 2, column - size // 2
            hole[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = True
            possible.setdefault(hole.tobytes(), []).append((row, column))
    seen = {hole.tobytes() for hole in holes[..., 0]}
    # All possible holes occur and no others; 400 draws miss one of 35 centres with probability below 4e-4, and the key
    # is fixed.
    assert seen == set(possible)


def test_cutout_keeps_the_other_pixels(images):
    result = np.asarray(cutout(KEY, jnp.asarray(images), 3))
    np.testing.assert_array_equal(result[result != 0], images[result != 0])
    with pytest.raises(ValueError, match="size is 0, expected at least 1"):
        cutout(KEY, jnp.asarray(images), 0)


erase = jax.jit(random_erasing, static_argnames=("probability", "area", "aspect", "fill"))


def boxes(result):
    """Return (height, width, top, left) of the box in each image of ones, and a mask of the images that have one."""
    erased = np.asarray(result, np.float64)[..., 0] != 1
    found = []
    for hole in erased:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        if len(rows):
            assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and hole.sum() == len(rows) * len(
                columns
            )
            found.append((len(rows), len(columns), rows[0], columns[0]))
    return np.array(found).reshape(-1, 4), erased.any((1, 2))


def test_random_erasing_takes_the_announced_boxes():
    result = erase(KEY, jnp.ones((1500, 60, 90, 1)), 0.25, fill="zero")
    found, erased = boxes(result)
    # Binomial(1500, 1/4): standard deviation 16.8; five of them.
    assert abs(erased.sum() - 375) < 84
    height, width, top, left = found.T
    area, aspect = height * width / 5400, height / width
    # Sides are rounded: a side of 6 or more may be half a pixel off.
    assert 0.02 * 0.85 < area.min() < 0.04 and 0.31 < area.max() < 1 / 3 * 1.03
    assert 0.3 * 0.9 < aspect.min() < 0.35 and 2.5 < aspect.max() < 1 / 0.3 * 1.1
    # A uniform area has mean 0.177 and standard deviation 0.09, without large ones that do not fit; log-uniform aspect.
    assert abs(area.mean() - 0.177) < 0.03
    assert abs(np.log(aspect).mean()) < 0.15 and abs(np.log(aspect).std() - np.log(1 / 0.3) / np.sqrt(3)) < 0.08
    assert (top + height <= 60).all() and (left + width <= 90).all()
    for place in (top / np.maximum(60 - height, 1), left / np.maximum(90 - width, 1)):
        assert place.min() < 0.02 and place.max() == 1 and abs(place.mean() - 0.5) < 0.08


def drawn(batch, height, width, area, aspect, dtype):
    """Return the (height, width) of each image's box from the same uniform draws in NumPy, None if no draw fits."""
    _, area_key, aspect_key, *_ = jax.random.split(KEY, 6)
    areas = height * width * np.asarray(jax.random.uniform(area_key, (batch, 10), dtype, *area), np.float64)
    logs = jax.random.uniform(aspect_key, (batch, 10), dtype, *np.log(aspect))
    ratios = np.exp(np.asarray(logs, np.float64))
    result = []
    for tries in zip(np.sqrt(areas * ratios), np.sqrt(areas / ratios), strict=True):
        sides = [(max(round(h), 1), max(round(w), 1)) for h, w in zip(*tries, strict=True)]
        result.append(next(((h, w) for h, w in sides if h <= height and w <= width), None))
    return result


def test_the_first_of_ten_boxes_that_fits():
    """Most boxes of these ranges are too tall for the image; the test runs in float64."""
    area, aspect = (0.3, 0.7), (1.5, 6.0)
    with jax.enable_x64(True):
        ones = jnp.ones((200, 11, 17, 2))
        expected = drawn(200, 11, 17, area, aspect, ones.dtype)
        found, erased = boxes(erase(KEY, ones, 1.0, area=area, aspect=aspect, fill="zero"))
    assert erased.tolist() == [box is not None for box in expected]
    assert found[:, :2].tolist() == [list(box) for box in expected if box]
    assert 0.1 < erased.mean() < 0.9


def test_random_erasing_fills_with_noise(images):
    images = np.tile(images, (10, 2, 1, 1))
    result = np.asarray(erase(KEY, images, 1.0))
    changed = result != images
    assert (changed == changed[..., :1]).all()  # all channels
    noise = result[changed]
    # Five standard errors of mean and variance of n normal values.
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size) and abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert len(np.unique(noise)) > 0.99 * noise.size
    np.testing.assert_array_equal(erase(KEY, images, 0.0, fill="zero"), images)
    half = jax.ShapeDtypeStruct(images.shape, jnp.bfloat16)
    assert jax.eval_shape(lambda x: random_erasing(KEY, x, 0.5), half).dtype == jnp.bfloat16


@pytest.mark.few
@pytest.mark.parametrize("function", [lambda k, x: cutout(k, x, 3), lambda k, x: random_erasing(k, x, 0.5)])
def test_sharded_images_stay_where_they_are(rng, function):
    devices = jax.devices()
    sharding = NamedSharding(Mesh(devices, "data"), PartitionSpec("data"))
    images = rng.normal(size=(2 * len(devices), 5, 7, 3)).astype(np.float32)
    placed = jax.device_put(images, sharding)
    compiled = jax.jit(function, out_shardings=sharding).lower(KEY, placed).compile()
    assert not [word for word in ("all-", "collective-permute", "reduce-scatter") if word in compiled.as_text()]
    np.testing.assert_allclose(compiled(KEY, placed), jax.jit(function)(KEY, images), rtol=1e-6)


def test_random_erasing_refuses():
    with pytest.raises(ValueError, match=r"probability is 1.5, expected a number in \[0, 1\]"):
        random_erasing(KEY, jnp.ones((1, 2, 2, 1)), 1.5)
    with pytest.raises(ValueError, match="fill is 'mean', expected 'noise' or 'zero'"):
        inspect.unwrap(random_erasing)(KEY, jnp.ones((1, 2, 2, 1)), 0.5, fill="mean")
