import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.data.augment.mixing import cutmix, mixup, mixup_or_cutmix

KEY = jax.random.key(3)
run_mixup = jax.jit(mixup, static_argnames="alpha")
run_cutmix = jax.jit(cutmix, static_argnames="alpha")
run_either = jax.jit(mixup_or_cutmix, static_argnames=("mixup_alpha", "cutmix_alpha", "cutmix_probability"))
SWAPPED = np.array([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12])


@pytest.fixture
def images(rng):
    return rng.normal(size=(14, 5, 7, 3)).astype(np.float32)


@pytest.fixture
def labels(rng):
    """Return one-hot labels that differ within each pair."""
    classes = np.arange(14) % 2 + 2 * rng.integers(0, 2, 14)
    return np.eye(4, dtype=np.float32)[classes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-7)])
def test_mixup_mixes_pairs(images, labels, dtype, tolerance):
    mixed, mixed_labels = run_mixup(KEY, jnp.asarray(images, dtype), jnp.asarray(labels), alpha=0.8)
    assert (mixed.dtype, mixed_labels.dtype) == (dtype, jnp.float32)
    weights = np.asarray(mixed_labels)[labels == 1]
    weight = float(weights[0])
    assert 0 < weight < 1
    np.testing.assert_allclose(weights, weight, rtol=1e-6)
    np.testing.assert_allclose(mixed_labels, weight * labels + (1 - weight) * labels[SWAPPED], rtol=1e-6)
    given = np.asarray(jnp.asarray(images, dtype), np.float64)
    # The result is rounded to its dtype; values reach 4.
    expected = weight * given + (1 - weight) * given[SWAPPED]
    np.testing.assert_allclose(np.asarray(mixed, np.float64), expected, rtol=tolerance, atol=tolerance)


def test_mixup_draws_from_beta():
    draw = jax.vmap(lambda key: mixup(key, jnp.ones((2, 1, 1, 1)), jnp.eye(2), 0.5)[1][0, 0])
    weights = np.asarray(draw(jax.random.split(KEY, 4000)))
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)) = 1/8; tolerances are five standard errors.
    assert abs(weights.mean() - 0.5) < 5 * np.sqrt(1 / 8 / 4000)
    assert abs(weights.var() - 1 / 8) < 0.01
    for function in (mixup, cutmix):
        with pytest.raises(ValueError, match="alpha is 0.0, expected more than 0"):
            function(KEY, jnp.ones((2, 1, 1, 1)), jnp.eye(2), 0.0)


def kept_pixels(key, height, width, alpha, dtype):
    """Return a mask of the pixels that cutmix keeps, computed in NumPy from the same draws."""
    beta_key, row_key, column_key = jax.random.split(key, 3)
    fraction = np.sqrt(1 - float(jax.random.beta(beta_key, alpha, alpha, dtype=dtype)))
    kept = np.ones((height, width), bool)
    tall, wide = int(height * fraction), int(width * fraction)
    row, column = int(jax.random.randint(row_key, (), 0, height)), int(jax.random.randint(column_key, (), 0, width))
    top, left = row - tall // 2, column - wide // 2
    kept[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = False
    return kept


@pytest.mark.thorough
def test_cutmix_takes_a_box_of_the_partner(images, labels):
    """The result is exact, bit for bit, in float64."""
    shares = []
    with jax.enable_x64(True):
        given, targets = jnp.asarray(images, jnp.float64), jnp.asarray(labels)
        for key in jax.random.split(KEY, 12):
            mixed, mixed_labels = run_cutmix(key, given, targets, alpha=1.0)
            assert (mixed.dtype, mixed_labels.dtype) == (jnp.float64, jnp.float32)
            kept = kept_pixels(key, 5, 7, 1.0, jnp.float64)
            np.testing.assert_array_equal(mixed, np.where(kept[:, :, None], given, np.asarray(given)[SWAPPED]))
            share = kept.mean()
            np.testing.assert_allclose(mixed_labels, share * labels + (1 - share) * labels[SWAPPED], atol=1e-6)
            shares.append(share)
    assert len(set(shares)) > 5 and min(shares) < 0.5


@pytest.mark.thorough
def test_cutmix_boxes_have_the_announced_distribution():
    """With alpha 1, λ' is uniform; a NumPy simulation of the paper's equation 2 gives the expected labels."""
    keys = jax.random.split(KEY, 2000)
    target = jax.vmap(lambda key: cutmix(key, jnp.ones((2, 40, 60, 1)), jnp.eye(2), 1.0)[1][0, 0])
    shares = np.asarray(jax.jit(target)(keys))
    rng = np.random.default_rng(0)
    sides = np.sqrt(1 - rng.uniform(size=(100_000, 1)))
    sides = np.floor(sides * (40, 60))
    starts = rng.integers(0, (40, 60), (100_000, 2)) - sides // 2
    ends = np.minimum(starts + sides, (40, 60))
    simulated = 1 - np.prod(ends - np.maximum(starts, 0), axis=1) / 2400
    # Five standard errors of mean and spread.
    assert abs(shares.mean() - simulated.mean()) < 5 * simulated.std() / np.sqrt(2000)
    assert abs(shares.std() - simulated.std()) < 5 * simulated.std() / np.sqrt(2 * 2000)


@pytest.mark.thorough
def test_one_of_the_two_at_a_time(images, labels):
    cut = 0
    for key in jax.random.split(KEY, 25):
        found = run_either(key, images, labels, mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_probability=0.3)
        mixup_key, cutmix_key, _ = jax.random.split(key, 3)
        kept = kept_pixels(cutmix_key, 5, 7, 1.0, jnp.float32)
        if np.array_equal(found[0], np.where(kept[:, :, None], images, images[SWAPPED])):
            np.testing.assert_allclose(found[1][labels == 1], kept.mean(), rtol=1e-6)
            cut += 1
            continue
        for one, other in zip(found, run_mixup(mixup_key, images, labels, alpha=0.8), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    # Binomial(25, 0.3): mean 7.5, standard deviation 2.3; three of them.
    assert 1 <= cut <= 14


either = functools.partial(mixup_or_cutmix, mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_probability=0.5)


@pytest.mark.thorough
def test_images_are_mixed_where_they_are(rng):
    devices = jax.devices()
    assert len(devices) == 8
    sharding = NamedSharding(Mesh(devices, "data"), PartitionSpec("data"))
    images = rng.normal(size=(48, 5, 7, 3)).astype(np.float32)
    labels = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 48)]
    placed = jax.device_put((images, labels), sharding)
    compiled = jax.jit(either).lower(KEY, *placed).compile()
    text = compiled.as_text()
    assert not [word for word in ("all-", "collective-permute", "reduce-scatter") if word in text]
    mixed = compiled(KEY, *placed)
    assert mixed[0].sharding.is_equivalent_to(sharding, 4) and mixed[1].sharding.is_equivalent_to(sharding, 2)
    for many, one in zip(mixed, jax.jit(either)(KEY, images, labels), strict=True):
        # The compiler may fuse a product and a sum in one of the two, which rounds once less.
        np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-6)


def test_an_odd_batch_has_no_pairs(images, labels):
    for function in (functools.partial(mixup, alpha=0.8), functools.partial(cutmix, alpha=1.0), either):
        with pytest.raises(ValueError, match="their number must be even, got 13"):
            jax.eval_shape(function, KEY, images[:13], labels[:13])
