"""The IDX format of MNIST and Fashion-MNIST: a big-endian header, then unsigned bytes, plain or compressed by gzip.

The header has two zero bytes, a type code (8 = unsigned byte), the number of dimensions, and one 32-bit size per
dimension.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from aa_flax.data.errors import DataError

_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | Path, *, rank: int) -> UInt8[np.ndarray, "..."]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: the file, gzip or plain (recognised by its content, not by its name).
        rank: the number of dimensions that the file must have: 3 for images [n, h, w], 1 for labels [n].

    Returns:
        uint8 array of the header's shape.

    Raises:
        DataError: the file is missing, unreadable or truncated, has a wrong magic number, or does not have as many
            bytes as its header says.
    """
    path = Path(path)
    content = _content(path)
    magic = struct.pack(">HBB", 0, _UNSIGNED_BYTE, rank)
    if content[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {rank} dimensions: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}"
        )
    header = 4 + 4 * rank
    if len(content) < header:
        raise DataError(f"{path}: truncated inside its header: {len(content)} bytes, expected at least {header}")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: the header announces {' × '.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"the file holds {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def encode_idx(array: UInt8[np.ndarray, "..."]) -> bytes:
    """Return the bytes of the plain IDX file of an array, which `read_idx` reads."""
    return struct.pack(f">HBB{array.ndim}I", 0, _UNSIGNED_BYTE, array.ndim, *array.shape) + array.tobytes()


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
