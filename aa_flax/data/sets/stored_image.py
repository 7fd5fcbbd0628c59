"""An image file as it is stored: its own bytes where these are what a viewer shows, else encoded as shown.

JPEG, PNG and WebP files are stored byte for byte, of a phone's JPEG with several images the first. Other formats, and
images that a viewer shows otherwise than they are stored (turned by EXIF, 16 bits per channel, transparent), are stored
as shown: JPEGs as JPEG of quality 95, the rest as PNG.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_flax.data.errors import DataError, one_line
from aa_flax.data.images import encode_png
from aa_flax.data.shown import announced, shown

_STORED_AS_THEY_ARE = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class StoredImage:
    """An image as it is stored.

    Attributes:
        content: the encoded image.
        size: (height, width) of it.
        orientation: EXIF's number, 2 to 8, of how the file's pixels were turned to it; 1 where they were not.
    """

    content: bytes
    size: tuple[int, int]
    orientation: int


class UnreadableError(DataError):
    """A file whose bytes cannot be read, which does not say that they are damaged."""


def stored_image(path: Path) -> StoredImage:
    """Return an image file as it is stored; it is decoded, so that damage is found now and not in the middle of a run.

    Raises:
        UnreadableError: the file cannot be read: it is gone, or this user may not.
        DataError: it is empty, or the image cannot be decoded.
    """
    content = _content(path)
    try:
        image = shown(content)
        size = image.picture.height, image.picture.width
        if image.as_stored and image.format in _STORED_AS_THEY_ARE:
            return StoredImage(image.content, size, image.orientation)
        picture = image.picture.convert("RGB")
        if image.format != "JPEG":
            return StoredImage(encode_png(np.asarray(picture)), size, image.orientation)
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=95)
        return StoredImage(buffer.getvalue(), size, image.orientation)
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise DataError(f"{path}: the image cannot be decoded ({one_line(error)})") from None


def upright_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image file as a viewer shows it.

    Raises:
        DataError: the image cannot be decoded.
    """
    return stored_image(path).size


def announced_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (height, width) of an image file as a viewer shows it, and as it is stored; nothing is decoded.

    Raises:
        DataError: the file cannot be read, or its first bytes are those of no image.
    """
    content = _content(path)
    try:
        stored, orientation = announced(content)
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise DataError(f"{path}: the image cannot be decoded ({one_line(error)})") from None
    return (stored[::-1] if orientation > 4 else stored), stored


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content:
        raise DataError(f"{path}: the image cannot be decoded (the file is empty)")
    return content
