import pytest

from aa_flax.analysis.compiler import TargetError
from aa_flax.analysis.slices import CHIPS, CLOUD_NAMES, find_slice


@pytest.mark.parametrize(
    ("name", "topology", "chips"),
    [
        ("v5litepod-1", "v5e:1x1", 1),
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5litepod-256", "v5e:16x16", 256),
        ("v5e-8", "v5e:2x4", 8),
        ("v6e-4", "v6e:2x2", 4),
        ("v4-8", "v4:2x2x1", 4),
        ("v4-512", "v4:4x8x8", 256),
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5p-4096", "v5p:8x16x16", 2048),
        ("v5e:2x2", "v5e:2x2", 4),
        ("v4:4x4x12", "v4:4x4x12", 192),
    ],
)
def test_names(name, topology, chips):
    found = find_slice(name)
    assert (found.topology, found.chips) == (topology, chips)


def test_every_accelerator_type_names_a_slice_that_is_called_so():
    for name, topology in CLOUD_NAMES.items():
        assert find_slice(topology).cloud_name == name


@pytest.mark.parametrize("name", ["v4:1x1x1", "v5e:1x2"])
def test_slices_that_cloud_does_not_rent_have_no_name(name):
    assert find_slice(name).cloud_name is None


def test_hosts_hold_two_by_two_chips_or_less():
    assert find_slice("v5e:1x1").chips_per_host == (1, 1, 1)
    assert find_slice("v5e:16x16").chips_per_host == find_slice("v4-8").chips_per_host == (2, 2, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5litepod-15", "did you mean .*'v5litepod-16'"),
        ("a100", "is not known; expected a topology, such as v5e:4x4"),
        ("v3:2x2", "must be of one of v4, v5e, v5p, v6e"),
        ("v5e:2x2x1", "must have 2 dimensions, such as v5e:1x1, v5e:2x2"),
        ("v4:2x2", "must have 3 dimensions, such as v4:2x2x1"),
        ("v5e:0x4", "must have 2 dimensions"),
        ("v5e:", "must have 2 dimensions"),
        ("v5e:32x32", "a v5e slice has at most 16 chips along a side"),
        ("v6e:3x5", "sides of a v6e slice are 1, 2, 4, 8 or 16 chips"),
    ],
)
def test_mistakes_say_what_is_expected(name, words):
    with pytest.raises(TargetError, match=words):
        find_slice(name)


def test_published_figures():
    assert {name: (chip.flops / 1e12, chip.hbm_bytes / 2**30) for name, chip in CHIPS.items()} == {
        "v4": (275, 32),
        "v5e": (197, 16),
        "v5p": (459, 95),
        "v6e": (918, 32),
    }
    for name, chip in CHIPS.items():
        assert chip.usable_bytes <= chip.hbm_bytes and chip.source == f"https://cloud.google.com/tpu/docs/{name}"
