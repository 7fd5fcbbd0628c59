import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax import ops
from aa_flax.ops.mesh import on_own_images

sample = jax.jit(ops.sample, static_argnames=("number", "positive_fraction"))


def sample_each(matches, keys, **options):
    run = on_own_images(jax.vmap(functools.partial(ops.sample, **options)), (True, True), name="sample")
    return jax.jit(run)(matches, keys)


def some_matches(rng, positives, negatives, ignored):
    matches = np.concatenate([rng.integers(0, 7, positives), np.full(negatives, -1), np.full(ignored, -2)])
    return rng.permutation(matches).astype(np.int32)


@pytest.mark.parametrize(
    ("positives", "negatives", "ignored"),
    [(20, 30, 10), (3, 50, 7), (8, 50, 2), (0, 60, 0), (20, 2, 38), (60, 0, 0), (3, 4, 53), (0, 0, 60), (8, 24, 28)],
)
def test_counts(rng, positives, negatives, ignored):
    """Of 32, up to 8 are positives and negatives fill the rest, as far as there are some."""
    matches = some_matches(rng, positives, negatives, ignored)
    drawn = sample(matches, jax.random.key(5), number=32, positive_fraction=0.25)
    indices, found, valid = (np.asarray(array) for array in drawn)
    first = min(8, positives)
    number = first + min(32 - first, negatives)
    assert indices.dtype == found.dtype == np.int32
    np.testing.assert_array_equal(valid, np.arange(32) < number)
    np.testing.assert_array_equal(found[valid], matches[indices[valid]])
    assert (found[:first] >= 0).all() and (found[first:number] == -1).all()
    assert len({*indices[valid]}) == number  # without repeats
    assert (indices[~valid] == 0).all() and (found[~valid] == -2).all()


def test_fewer_than_are_asked_for():
    drawn = sample(np.array([-1, 0, -2, -1]), jax.random.key(0), number=9, positive_fraction=0.5)
    assert drawn.valid.tolist() == [True] * 3 + [False] * 6 and drawn.matches.tolist() == [0, -1, -1] + [-2] * 6
    assert drawn.indices[0] == 1 and {*drawn.indices[1:3].tolist()} == {0, 3}
    nothing = sample(np.zeros(0, np.int32), jax.random.key(0), number=3, positive_fraction=0.5)
    assert nothing.indices.tolist() == [0] * 3 and not nothing.valid.any() and nothing.matches.tolist() == [-2] * 3


@pytest.mark.few(2)
@pytest.mark.parametrize(("number", "fraction", "positives"), [(8, 0, 0), (8, 1, 8), (5, 0.5, 2), (3, 0.3, 0)])
def test_the_quota_is_rounded_down(number, fraction, positives):
    drawn = sample(np.repeat([0, -1], 20), jax.random.key(1), number=number, positive_fraction=fraction)
    assert (drawn.matches >= 0).sum() == positives and drawn.valid.all()


def test_every_one_is_drawn_equally_often(rng):
    """Of 6,000 draws each positive is in 5 / 12, each negative in 15 / 40, and pairs as often as each other."""
    matches = some_matches(rng, 12, 40, 9)
    keys = jax.random.split(jax.random.key(3), 6000)
    draw = functools.partial(ops.sample, matches, number=20, positive_fraction=0.25)
    drawn = jax.jit(jax.vmap(draw))(keys)
    assert drawn.valid.all()
    seen = np.zeros((6000, len(matches)), bool)
    np.put_along_axis(seen, np.asarray(drawn.indices), True, 1)
    for group, share in ((matches >= 0, 5 / 12), (matches == -1, 15 / 40)):
        rates = seen[:, group].mean(0)
        assert np.abs(rates - share).max() < 4.5 * np.sqrt(share * (1 - share) / 6000)
        number = group.sum()
        taken = round(share * number)
        both = seen[:, group].astype(float).T @ seen[:, group] / 6000
        pair = taken * (taken - 1) / number / (number - 1)
        apart = both[~np.eye(number, dtype=bool)]
        assert np.abs(apart - pair).max() < 5 * np.sqrt(pair * (1 - pair) / 6000)
    assert not seen[:, matches == -2].any()


def test_a_key_decides(rng):
    """The same key draws the same, alone, compiled or in a batch; keys of images differ, and so do draws."""
    matches = np.stack([some_matches(rng, 20, 40, 3)] * 3)
    keys = jax.random.split(jax.random.key(11), 3)
    together = sample_each(matches, keys, number=16, positive_fraction=0.5)
    for image in range(3):
        alone = sample(matches[image], keys[image], number=16, positive_fraction=0.5)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other[image])
    assert len({tuple(row) for row in together.indices.tolist()}) == 3


def test_narrow_types_and_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        matches = jnp.array([3, -1, -1, -2], jnp.int8)
        drawn = sample(matches, jax.random.key(0), number=2, positive_fraction=0.5)
    assert drawn.matches.tolist() == [3, -1] and drawn.matches.dtype == jnp.int32


@pytest.mark.few
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_each_device_draws_for_its_own_images(rng, kind):
    matches = np.stack([some_matches(rng, 20, 40, 3) for _ in range(4)])
    keys, options = jax.random.split(jax.random.key(11), 4), dict(number=16, positive_fraction=0.5)
    alone = sample_each(matches, keys, **options)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, AxisType.Auto), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = jax.device_put((matches, keys), NamedSharding(mesh, PartitionSpec("data")))
        compiled = jax.jit(functools.partial(sample_each, **options)).lower(*placed).compile()
        found = compiled(*placed)
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all") if word in text]
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_that_cannot_be():
    matches, key = np.zeros(5, np.int32), jax.random.key(0)
    for number in (0, 2.5):
        with pytest.raises(ValueError, match=f"number must be a whole number, at least 1, got {number}"):
            ops.sample(matches, key, number=number, positive_fraction=0.5)
    with pytest.raises(ValueError, match=r"positive_fraction must lie in \[0, 1\], got 1.5"):
        ops.sample(matches, key, number=3, positive_fraction=1.5)
    with pytest.raises(ValueError, match=r"matches must have the shape \[n\], got \(2, 5\)"):
        ops.sample(np.zeros((2, 5), np.int32), key, number=3, positive_fraction=0.5)
