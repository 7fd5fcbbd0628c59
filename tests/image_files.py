"""Image files written by hand, for what Pillow does not write: TIFFs, PNGs and EXIF data of any tags and types."""

import struct
import zlib

import numpy as np

SHORT, LONG, ASCII, RATIONAL = 3, 4, 2, 5
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 99: 1}


def tiff(entries, pixels=b"", order="<"):
    """Return a TIFF whose directory has the entries (tag, type, count, value), the value a number or bytes.

    Bytes longer than four are stored after the directory. The pixels come right after the header, at 8.
    """
    pixels += bytes(len(pixels) % 2)
    start = 8 + len(pixels)
    after, directory = b"", struct.pack(f"{order}H", len(entries))
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries):
        if isinstance(value, int):
            value = struct.pack(f"{order}H" if kind == SHORT else f"{order}I", value)
        if len(value) > 4:
            after, value = after + value, struct.pack(f"{order}I", behind + len(after))
        directory += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", start) + pixels + directory + bytes(4) + after


def grey_tiff(values, bits, photometric=1, sample_format=None, order="<", more=()):
    """Return a TIFF of [h, w] integers, signed if `sample_format` is 2 and floating-point if it is 3."""
    values = np.asarray(values)
    height, width = values.shape
    if bits == 12:
        rows = []
        for row in values.astype(int):
            digits = "".join(f"{level:03x}" for level in row)
            rows.append(bytes.fromhex(digits + "0" * (len(digits) % 2)))
        pixels = b"".join(rows)
    else:
        kind = {None: "u", 1: "u", 2: "i", 3: "f"}[sample_format]
        pixels = values.astype(np.dtype(f"{order}{kind}{bits // 8}")).tobytes()
    entries = [
        *[(256, SHORT, 1, width), (257, SHORT, 1, height), (258, SHORT, 1, bits), (259, SHORT, 1, 1)],
        *[(262, SHORT, 1, photometric), (273, LONG, 1, 8), (277, SHORT, 1, 1), (278, SHORT, 1, height)],
        *[(279, LONG, 1, len(pixels)), *more],
    ]
    if sample_format is not None:
        entries.append((339, SHORT, 1, sample_format))
    return tiff(entries, pixels, order)


def chunk(name, data, checksum=None):
    """Return a chunk of a PNG, with a wrong checksum if one is given."""
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(values, bits, color, before=(), after=()):
    """Return a PNG of [h, w] or [h, w, channels] integers; `before` and `after` are chunks around the pixels."""
    values = np.asarray(values)
    height, width = values.shape[:2]
    lines = values.reshape(height, -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in lines]
    else:
        rows = []
        for row in lines:
            written = "".join(f"{level:0{bits}b}" for level in row)
            written += "0" * (-len(written) % 8)
            rows.append(int(written, 2).to_bytes(len(written) // 8))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", data), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_segment(jpeg, marker, data):
    """Return a JPEG with one more segment right after its first marker."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]
