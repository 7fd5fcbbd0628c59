"""The parts of image files, found without decoding: what describes the pixels, and what was written beside them.

JPEG (ITU-T T.81, annex B), PNG (its third edition, chapter 5) and TIFF (revision 6.0, section 2). Other bytes have no
parts here.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
_END_OF_IMAGE, _START_OF_SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_OF_PIXELS = {0xE0: 16, 0xEE: 14}  # JFIF's and Adobe's, which say how colours are stored, and their least lengths
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a marker that is neither stuffed, filled nor a restart
_EXIF_IN_JPEG, _INDEX_OF_IMAGES = b"Exif\0\0", b"MPF\0"
_ORIENTATION = 274
_TIFF_PIXELS = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347, 512)
) | {513, 514, 529, 530, 531, 532}
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 5: "II", 10: "ii"}
"""Formats of `struct` by EXIF's number of a type; fractions are two integers."""


@dataclass(frozen=True)
class Samples:
    """What a TIFF says of its samples: bits, format (1 unsigned, 2 signed, 3 float), and whether 0 is white."""

    bits: int
    format: int
    white_is_zero: bool


def first_jpeg(content: bytes) -> bytes:
    """Return the first image of a JPEG file alone, and other bytes as they are.

    Phones append a film, a depth map or smaller copies (MPO, CIPA DC-007), and an index of them within the first image,
    which is dropped too. A file without an end is returned as it is.
    """
    if not content.startswith(_JPEG):
        return content
    parts = list(_jpeg_parts(content))
    if not parts or parts[-1][0] != _END_OF_IMAGE:
        return content
    kept = [content[:2]] + [
        content[start:end]
        for marker, start, end in parts
        if not (marker == 0xE2 and content.startswith(_INDEX_OF_IMAGES, start + 4))
    ]
    return b"".join(kept)


def without_metadata(content: bytes) -> bytes:
    """Return a JPEG, PNG or TIFF with only what describes its pixels, and other bytes as they are.

    A PNG keeps its transparency. A TIFF keeps its first image; where 0 is white it is given as black, and big-endian
    integers of 32 bits as signed, because Pillow reads these alone: `samples` says how they are meant.
    """
    if content.startswith(_JPEG):
        return content[:2] + b"".join(
            content[start:end]
            for marker, start, end in _jpeg_parts(content)
            if marker not in (*_APPLICATIONS, _COMMENT) or end - start - 2 >= _OF_PIXELS.get(marker, len(content))
        )
    if content.startswith(_PNG):
        kept = [content[start:end] for name, start, end in png_chunks(content) if name[:1].isupper() or name == b"tRNS"]
        return _PNG + b"".join(kept)
    return _bare_tiff(content) if content[:4] in _TIFF else content


def exif_in(content: bytes) -> bytes:
    """Return the EXIF data in a JPEG, PNG or TIFF, which are a TIFF themselves; b"" if there are none."""
    if content.startswith(_JPEG):
        for marker, start, end in _jpeg_parts(content):
            if marker == 0xE1 and content.startswith(_EXIF_IN_JPEG, start + 4):
                return content[start + 10 : end]
    if content.startswith(_PNG):
        return next((content[start + 8 : end - 4] for name, start, end in png_chunks(content) if name == b"eXIf"), b"")
    return content if content[:4] in _TIFF else b""


def orientation_in(exif: bytes) -> int:
    """Return the orientation of EXIF data, 1 to 8: how the image is to be turned or mirrored to be upright.

    Only this value is read, whatever else the data hold. It may have any type of number; 0 stands for data that are
    damaged or without it, and for values that mean nothing.
    """
    exif = exif.removeprefix(_EXIF_IN_JPEG)
    entry = _tiff_entries(exif).get(_ORIENTATION)
    values = _values(exif, entry) if entry else ()
    return int(values[0]) if len(values) == 1 and values[0] in range(1, 9) else 0


def samples(content: bytes) -> Samples | None:
    """Return what a TIFF says of its samples, those of its first channel; None for other bytes."""
    if content[:4] not in _TIFF:
        return None
    entries = _tiff_entries(content)

    def first(tag: int, default: int) -> int:
        values = _values(content, entries[tag]) if tag in entries else ()
        return values[0] if values and isinstance(values[0], int) else default

    return Samples(first(258, 1), first(339, 1), first(262, 1) == 0)


def _jpeg_parts(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each part after the first marker, a scan with its data, to the end of the image.

    It ends early where the bytes are no part of a JPEG, or are cut off.
    """
    place = 2
    while place + 2 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
            continue
        if marker == _END_OF_IMAGE:
            yield marker, place, place + 2
            return
        alone = marker == 1 or 0xD0 <= marker <= 0xD7
        end = place + 2 + (0 if alone else int.from_bytes(content[place + 2 : place + 4]))
        if marker == _START_OF_SCAN:
            found = _AFTER_SCAN.search(content, end)
            end = found.start() if found else len(content)
        yield marker, place, min(end, len(content))
        place = end


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk of a PNG, none of other bytes; it ends early where these are cut off."""
    place = len(_PNG) if content.startswith(_PNG) else len(content)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        yield content[place + 4 : place + 8], place, end
        place = end


_Entry = tuple[str, int, int, bytes]
"""Byte order, number of the type, count, and four bytes: the value, or where it is."""


def _tiff_entries(content: bytes) -> dict[int, _Entry]:
    """Return the entries of a TIFF's first directory by tag, those that lie within the bytes."""
    order = _TIFF.get(content[:4])
    if order is None or len(content) < 8:
        return {}
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    if start + 2 > len(content):
        return {}
    (count,) = struct.unpack_from(f"{order}H", content, start)
    entries: dict[int, _Entry] = {}
    for place in range(start + 2, min(start + 2 + 12 * count, len(content) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHI4s", content, place)
        entries.setdefault(tag, (order, kind, number, value))
    return entries


def _values(content: bytes, entry: _Entry) -> tuple[int | float, ...]:
    """Return the numbers of an entry, digits written as text too; () if they are none or lie outside the bytes."""
    order, kind, number, field = entry
    if kind == 2:
        text = field[:number].rstrip(b"\0 ")
        return (int(text),) if text.isdigit() else ()
    form = _TYPES.get(kind)
    if form is None or not 1 <= number <= 8:
        return ()
    form = f"{order}{form * number}"
    if struct.calcsize(form) > 4:
        field = content[int.from_bytes(field, "little" if order == "<" else "big") :][: struct.calcsize(form)]
    if len(field) < struct.calcsize(form):
        return ()
    values = struct.unpack_from(form, field)
    if kind in (5, 10):
        pairs = zip(values[::2], values[1::2], strict=True)
        return tuple(above / below if below else 0.0 for above, below in pairs)
    return values


def _bare_tiff(content: bytes) -> bytes:
    """Return a TIFF whose only directory, appended, has the entries of its first image's pixels."""
    found, meant = _tiff_entries(content), samples(content)
    if not found or meant is None:
        return content
    order = _TIFF[content[:4]]
    kept = {tag: (kind, number, value) for tag, (_, kind, number, value) in found.items() if tag in _TIFF_PIXELS}
    if meant.bits > 8 and meant.white_is_zero and meant.format == 1:
        kept[262] = (3, 1, struct.pack(f"{order}HH", 1, 0))
    if meant.bits == 32 and meant.format == 1 and order == ">":
        kept[339] = (3, 1, struct.pack(f"{order}HH", 2, 0))
    content += bytes(len(content) % 2)  # a directory starts at an even place
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(
        struct.pack(f"{order}HHI4s", tag, *kept[tag]) for tag in sorted(kept)
    )
    return content[:4] + struct.pack(f"{order}I", len(content)) + content[8:] + directory + bytes(4)
