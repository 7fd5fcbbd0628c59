"""Reading an image file as the pixels that a network expects."""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.errors import one_line
from aa_flax.data.sets.folder_layout import SUFFIXES, is_hidden
from aa_flax.data.shown import UnknownRange, as_shown, shown
from aa_flax.data.view import View

_MOST_BYTES = 2 * 10**9  # of a film given by mistake, nothing is read into memory


class PhotoError(Exception):
    """A file that is not a usable image. The message is one line and names the file."""


def photo_files(given: Sequence[str]) -> tuple[list[str], dict[str, Exception]]:
    """Return the image files that some names stand for, each once, and an error for each name without any.

    A name is that of a file; of a folder, whose images at any depth are taken by the order of their names, except those
    that are hidden or below a hidden folder; or, where no file has it, a pattern with *, ? or [...].
    """
    files: list[str] = []
    errors: dict[str, Exception] = {}
    for name in map(os.path.expanduser, given):  # a name such as ~a.png, where there is no such user, stays
        path = Path(name)
        if path.is_dir():
            some = sorted(
                str(each)
                for each in path.rglob("*")
                if each.suffix.lower() in SUFFIXES and each.is_file() and not _in_hidden(each.relative_to(path))
            )
            if not some:
                errors[name] = PhotoError(f"{name}: no image in this folder, at any depth")
        elif not path.exists() and glob.has_magic(name):
            found = glob.glob(name, recursive=True)  # noqa: PTH207, because the pattern may be absolute
            some = sorted(each for each in found if Path(each).is_file())
        else:
            some = [name]
        files += some or [name]
    return list(dict.fromkeys(files)), errors


def _in_hidden(path: Path) -> bool:
    return any(is_hidden(each) for each in (path, *path.parents) if each.name)


def read_photo(file: str | Path, channels: int) -> Image.Image:
    """Read a PNG or JPEG (or whatever else Pillow reads) as a picture of its own size, in grey or RGB.

    In this order, more than 8 bits per channel are scaled to 8; transparency is composited over white; the image is
    turned upright as its EXIF says (`aa_flax.data.shown`); and colour is converted to grey (ITU-R BT.601 luma), or grey
    to three equal channels.

    Args:
        file: the image file.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        PhotoError: the file is missing, not an image, truncated, or of a kind without a defined range of pixels.
    """
    file = os.path.expanduser(file)  # noqa: PTH111, because Path.expanduser raises for names such as ~a.png
    try:
        if Path(file).stat().st_size > _MOST_BYTES:
            raise PhotoError(f"{file}: not an image that can be read; it has more than {_MOST_BYTES / 1e9:.0f} GB")
        content = Path(file).read_bytes()
    except FileNotFoundError:
        raise PhotoError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise PhotoError(f"{file}: cannot be decoded: {getattr(error, 'strerror', None) or error}") from None
    return _decoded(str(file), lambda: shown(content).picture, channels)


def as_photo(given: Any, channels: int) -> Image.Image:
    """Return a photograph, however it is given, as a picture of its own size, in grey or RGB, as `read_photo` does.

    Args:
        given: the name of an image file; pixels as uint8 [h, w] or [h, w, c] with c of 1 (grey), 2 (and alpha), 3 (RGB)
            or 4 (and alpha); an image of Pillow's, of which one that was opened from a file is turned upright.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        PhotoError: the file, the pixels or the image are not usable.
        TypeError: it is of another type.
    """
    if isinstance(given, str | Path):
        return read_photo(given, channels)
    if isinstance(given, Image.Image):
        name = getattr(given, "filename", "") or "a picture"
        return _decoded(str(name), lambda: as_shown(given), channels)
    if not hasattr(given, "__array__"):
        raise TypeError(
            "a photograph is the name of a file, pixels as uint8 [h, w] or [h, w, c], or an image of Pillow's, got "
            f"{type(given).__name__}"
        )
    pixels = np.asarray(given)
    shape = list(pixels.shape)
    if pixels.dtype != np.uint8:
        raise PhotoError(f"pixels must be uint8, 0 to 255, got {pixels.dtype} {shape}")
    if pixels.ndim not in (2, 3) or not pixels.size or shape[2:] not in ([], [1], [2], [3], [4]):
        several = f"; list(images) gives {shape[0]} photographs" if pixels.ndim == 4 else ""
        raise PhotoError(f"pixels must be [h, w] or [h, w, c] with 1 to 4 channels, got {shape}{several}")
    picture = Image.fromarray(pixels[..., 0] if shape[2:] == [1] else pixels)
    return _decoded("pixels", lambda: as_shown(picture), channels)


def _decoded(name: str, decode: Callable[[], Image.Image], channels: int) -> Image.Image:
    """Return the picture that `decode` gives, in grey or RGB; raise PhotoError, with a name, for what it raises."""
    try:
        return decode().convert("L" if channels == 1 else "RGB")
    except Image.UnidentifiedImageError:
        raise PhotoError(f"{name}: not an image that can be read; PNG and JPEG are") from None
    except UnknownRange as error:
        raise PhotoError(f"{name}: {error}") from None
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise PhotoError(f"{name}: cannot be decoded: {one_line(error)}") from None


def load_photo(file: str | Path, view: View | tuple[int, int], channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Read an image file of any size as `read_photo` does, and return what `view` shows of it, as uint8 [h, w, c].

    Args:
        file: the image file.
        view: what is seen of the image: for a network that a run has trained, the run's `Preprocessing.view()`. A pair
            (h, w) stands for the largest centred part of this aspect, resized to this size.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        PhotoError: the file is missing, not an image, truncated, or of a kind without a defined range of pixels.
    """
    view = view if isinstance(view, View) else View(view, "center_crop", crop_fraction=1.0)
    return view.of(read_photo(file, channels))
