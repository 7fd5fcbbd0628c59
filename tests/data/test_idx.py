import gzip

import numpy as np
import pytest

from aa_flax.data import DataError
from aa_flax.data.sets.idx import encode_idx, read_idx


@pytest.fixture
def array(rng):
    return rng.integers(0, 256, (5, 3, 2), np.uint8)


def test_reads_plain_and_gzip_whatever_the_name(tmp_path, array):
    header = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 2])
    (tmp_path / "plain.gz").write_bytes(header + array.tobytes())
    (tmp_path / "packed").write_bytes(gzip.compress(header + array.tobytes()))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz", rank=3), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed", rank=3), array)


def test_encode_is_what_read_reads(tmp_path, array):
    (tmp_path / "file").write_bytes(encode_idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "file", rank=3), array)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "announces 5 × 3 × 2 = 30 bytes, the file holds 29"),
        (lambda content: content + b"x", "the file holds 31"),
        (lambda content: content[:9], "truncated inside its header: 9 bytes, expected at least 16"),
        (lambda content: b"", "starts with nothing, expected 00 00 08 03"),
        (lambda content: b"\x00\x00\x09" + content[3:], "starts with 00 00 09 03, expected 00 00 08 03"),
        (lambda content: b"\x00\x00\x08\x01" + content[4:], "expected 00 00 08 03"),
        (lambda content: gzip.compress(content)[:-9], "truncated or damaged gzip"),
        (lambda content: gzip.compress(content)[:20] + b"\xff\xff" + gzip.compress(content)[22:], "damaged gzip"),
    ],
)
def test_damage_is_named(tmp_path, array, damage, message):
    path = tmp_path / "images"
    path.write_bytes(damage(encode_idx(array)))
    with pytest.raises(DataError, match=message) as error:
        read_idx(path, rank=3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="nothing-here: no such file"):
        read_idx(tmp_path / "nothing-here", rank=3)
