"""An image file as a viewer shows it: upright, with 8 bits a channel, over white."""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from aa_flax.data.encoded import Samples, exif_in, first_jpeg, orientation_in, samples, without_metadata

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_OF_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey levels of fewer bits by
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:\s*=\s*["\']|>)\s*([1-8])')


class UnknownRange(ValueError):
    """An image whose numbers have no defined black and white, so that there is no one way to show it."""


@dataclass(frozen=True)
class Shown:
    """An image as a viewer shows it.

    Attributes:
        picture: the image, in any of Pillow's modes of 8 bits or less without transparency.
        format: Pillow's name of the format of the file, "JPEG" for those of phones that hold several images.
        content: the bytes of the file that the picture was decoded from: its first image, and without metadata where
            these cannot be read.
        as_stored: whether `content`, simply decoded, gives the same pixels.
        orientation: the metadata's number, 2 to 8, of how the pixels were turned; 1 where they were not.
    """

    picture: Image.Image
    format: str
    content: bytes
    as_stored: bool
    orientation: int


def shown(content: bytes, quiet: bool = True) -> Shown:
    """Decode the bytes of an image file as a viewer shows it; of several images the first.

    The image is turned by the orientation in its metadata, which decide nothing else and may be damaged; grey of 12, 16
    and 32 bits is scaled to 8, where white is the largest number of the format (or 0, as the file says); transparency
    is composited over white.

    Args:
        content: the bytes of the file.
        quiet: drop Pillow's warnings of metadata. Python has one filter of warnings for all threads, so among threads
            the caller does that once.

    Raises:
        UnknownRange: the pixels are floating-point or negative numbers.
        Exception: what Pillow raises for bytes that are no whole image, which may be of any type.
    """
    with warnings.catch_warnings() if quiet else contextlib.nullcontext():
        if quiet:
            warnings.simplefilter("ignore")
        content = first_jpeg(content)
        meant = samples(content)
        bare = without_metadata(content)
        if meant:  # of a TIFF, Pillow turns the pixels itself, by more of the metadata than the orientation
            return _shown(bare, content, meant)
        try:
            return _shown(content, content, None)
        except UnknownRange:
            raise
        except Exception:
            if bare == content:
                raise
        return _shown(bare, content, None)


def as_shown(image: Image.Image) -> Image.Image:
    """Return an image of Pillow's as a viewer shows it, in any of its modes of 8 bits or less without transparency.

    One that Pillow has opened from a file is turned as its metadata say, as from its file. One that was made or changed
    since, which Pillow copies the metadata to, is taken as it is.

    Raises:
        UnknownRange: the pixels are floating-point or negative numbers, or need more than 16 bits.
        Exception: what Pillow raises for a file that is no whole image, which may be of any type.
    """
    tile: Any = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    content = b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile and image.tell() == 0:
            # Pillow turns a TIFF while it reads it, and gets the pixels of some wrong.
            file: Any = image.fp
            file.seek(0)
            content = file.read()
        image.load()
        if content:
            return shown(content).picture
        if image.mode == "I" and np.asarray(image).max() > 65535:
            raise UnknownRange("numbers of more than 16 bits have no defined range; give 8 or 16 bits a channel")
        picture = _over_white(_eight_bits(image, tile if isinstance(tile, str) else "", None))
        read = isinstance(image, ImageFile.ImageFile) and not isinstance(image, TiffImagePlugin.TiffImageFile)
        orientation = _orientation(b"", image.info) if read else 1
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def announced(content: bytes) -> tuple[tuple[int, int], int]:
    """Return the (height, width) of an image file as it is stored, and its orientation, 1 to 8; nothing is decoded.

    Args:
        content: the file's bytes.

    Raises:
        Exception: of many types, for bytes that are no image.
    """
    with Image.open(io.BytesIO(content)) as image:
        return (image.height, image.width), _orientation(content, image.info) or 1


def _shown(content: bytes, with_metadata: bytes, meant: Samples | None) -> Shown:
    with Image.open(io.BytesIO(content)) as image:
        tile: Any = image.tile[0].args if image.tile else None
        image.load()
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        if tags.get(284) == 2 and max(tags.get(258, (1,))) > 8:  # in planes, whose bytes Pillow reads as samples
            raise UnknownRange("a TIFF with more than 8 bits in planes is not read; save its channels together")
        if isinstance(image, TiffImagePlugin.TiffImageFile) and meant is None:  # a BigTIFF, which is not bared
            meant = Samples(tags.get(258, (1,))[0], tags.get(339, (1,))[0], tags.get(262) == 0)
        picture = _over_white(_eight_bits(image, tile if isinstance(tile, str) else "", meant))
        orientation = _orientation(with_metadata, image.info)
        if orientation in TURNS:
            picture = picture.transpose(TURNS[orientation])
        as_stored = picture is image and meant is None
        return Shown(picture, image.format or "", content, as_stored, orientation if orientation in TURNS else 1)


def _orientation(content: bytes, info: Mapping[Any, Any]) -> int:
    """Return the orientation, 1 to 8, of a file's EXIF data, or else of its XMP data; 0 if there is none."""
    exif = exif_in(content) or info.get("exif") or b""
    raw = info.get("Raw profile type exif")  # as ImageMagick writes it into PNG: a heading, and digits
    if not exif and isinstance(raw, str):
        digits = re.sub(r"\s", "", "".join(raw.split("\n")[3:]))
        exif = bytes.fromhex(digits) if re.fullmatch(r"([0-9a-fA-F]{2})*", digits) else b""
    orientation = orientation_in(exif)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if not orientation and (found := _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else bytes(xmp))):
        return int(found[1])
    return orientation


def _eight_bits(image: Image.Image, rawmode: str, meant: Samples | None) -> Image.Image:
    """Return an image with 8 bits a channel, with the transparency of its pixels, or the image itself.

    Args:
        image: the decoded image.
        rawmode: Pillow's name of how the pixels are stored, "" if it has none.
        meant: what a TIFF says of its samples.

    Raises:
        UnknownRange: the pixels are floating-point or negative numbers.
    """
    if image.mode == "F":
        raise UnknownRange("floating-point pixels have no defined range; save it with 8 or 16 bits a channel")
    transparent = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;16") or (meant and meant.format == 2):
        grey, values = _scaled(image, meant or Samples(16, 1, False))
        return _with_alpha(grey, values != transparent) if isinstance(transparent, int) else grey
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # only `inPlace` gives None
        return converted
    if isinstance(transparent, int) and image.mode == "L":
        # A colour that is transparent is written in the bits of the file, of which 8 count at most.
        level = transparent * _GREY_OF_BITS.get(rawmode, 1) & 255
        return _with_alpha(image, np.asarray(image) != level)
    if isinstance(transparent, tuple) and image.mode == "RGB":
        # Of 16 bits a channel Pillow keeps the upper 8.
        color = [level >> 8 if rawmode.startswith("RGB;16") else level & 255 for level in transparent]
        return _with_alpha(image, (np.asarray(image) != color).any(-1))
    return image


def _scaled(image: Image.Image, meant: Samples) -> tuple[Image.Image, np.ndarray]:
    """Return integers as grey, from 0 to the largest number of their format, and the integers themselves."""
    signed = meant.format == 2
    values, most = np.asarray(image).astype(np.int64), 2 ** (meant.bits - signed) - 1
    if signed and meant.bits == 8:
        values = values.astype(np.int8).astype(np.int64)  # Pillow reads 8 bits as unsigned
    elif not signed:
        values &= most  # and 32 bits as signed
    if values.min() < 0:
        raise UnknownRange("negative pixels have no defined range; save it with 8 or 16 bits a channel, unsigned")
    levels = (most - values if meant.white_is_zero else values) * 255 / most
    return Image.fromarray((levels + 0.5).astype(np.uint8)), values


def _with_alpha(image: Image.Image, opaque: np.ndarray) -> Image.Image:
    copy = image.copy()
    copy.info.pop("transparency", None)
    copy.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return copy


def _over_white(image: Image.Image) -> Image.Image:
    """Return an image composited over white, or the image itself if it has no transparency."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in ("RGBA", "LA", "PA", "RGBa") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
