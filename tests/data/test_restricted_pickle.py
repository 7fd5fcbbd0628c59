import os
import pickle

import numpy as np
import pytest

from aa_flax.data import DataError
from aa_flax.data.sets.restricted_pickle import read_pickle


def write(tmp_path, content):
    path = tmp_path / "batch"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_reads_what_the_official_files_hold(tmp_path, rng, protocol):
    content = {
        b"data": rng.integers(0, 256, (5, 7), np.uint8),
        b"labels": [1, 2],
        "t": ("a", b"b", 1.5, None),
        b"e": b"",
    }
    loaded = read_pickle(write(tmp_path, pickle.dumps(content, protocol=protocol)))
    np.testing.assert_array_equal(loaded.pop(b"data"), content.pop(b"data"))
    assert loaded == content


def test_reads_both_spellings_of_numpy(tmp_path, rng):
    array = rng.integers(0, 256, (2, 3), np.uint8)
    content = pickle.dumps(array, protocol=2)
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(read_pickle(write(tmp_path, old)), array)


def test_reads_strings_of_python_2_as_bytes(tmp_path):
    # What Python 2 writes for {"labels": [3]} with protocol 2: SHORT_BINSTRING is 'U'.
    assert read_pickle(write(tmp_path, b"\x80\x02}q\x00U\x06labelsq\x01]q\x02K\x03as.")) == {b"labels": [3]}


@pytest.mark.parametrize("array", [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(2, 3))])
def test_keeps_byte_order_and_layout(tmp_path, array):
    np.testing.assert_array_equal(read_pickle(write(tmp_path, pickle.dumps(array, protocol=2))), array)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_refuses_code_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, pickle.dumps({b"data": Malicious()}))
    with pytest.raises(DataError, match=r"refused: the pickle asks for (posix|nt)\.system; accepted are numpy arrays"):
        read_pickle(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x1cnumpy._core.multiarray\x8c\x18_reconstruct.__globals__\x93.",
        b"Pexternal\n.",
        b"cnumpy\nndarray\n((I9\ntI9\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"cbuiltins\nbytes\n(I9999999999\ntR.",
        b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.",
    ],
)
def test_refuses(tmp_path, content):
    with pytest.raises(DataError):
        read_pickle(write(tmp_path, content))


def test_refuses_arrays_of_objects(tmp_path):
    with pytest.raises(DataError, match="an array of 'O8'"):
        read_pickle(write(tmp_path, pickle.dumps(np.array([{}], object), protocol=2)))


def test_truncated_and_missing(tmp_path, rng):
    content = pickle.dumps({b"data": rng.integers(0, 256, (5, 7), np.uint8)}, protocol=2)
    for length in (0, 1, 10, len(content) - 1):
        with pytest.raises(DataError, match="truncated or damaged pickle") as error:
            read_pickle(write(tmp_path, content[:length]))
        assert str(tmp_path) in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "absent")
