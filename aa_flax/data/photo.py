"""Reading an image file as the pixels that a network expects."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.errors import one_line
from aa_flax.data.shown import UnknownRange, shown
from aa_flax.data.view import View

_MOST_BYTES = 2 * 10**9  # of a film given by mistake, nothing is read into memory


class PhotoError(Exception):
    """A file that is not a usable image. The message is one line and names the file."""


def load_photo(file: str | Path, view: View | tuple[int, int], channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Read a PNG or JPEG (or whatever else Pillow reads) of any size as uint8 [h, w, c].

    In this order, more than 8 bits per channel are scaled to 8; transparency is composited over white; the image is
    turned upright as its EXIF says (`aa_flax.data.shown`); colour is converted to grey (ITU-R BT.601 luma), or grey to
    three equal channels; and `view` selects and resizes what is seen.

    Args:
        file: the image file.
        view: what is seen of the image: for a network that a run has trained, the run's `Preprocessing.view()`. A pair
            (h, w) stands for the largest centred part of this aspect, resized to this size.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        PhotoError: the file is missing, not an image, truncated, or of a kind without a defined range of pixels.
    """
    try:
        if Path(file).stat().st_size > _MOST_BYTES:
            raise PhotoError(f"{file}: not an image that can be read; it has more than {_MOST_BYTES / 1e9:.0f} GB")
        content = Path(file).read_bytes()
    except FileNotFoundError:
        raise PhotoError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise PhotoError(f"{file}: cannot be decoded: {getattr(error, 'strerror', None) or error}") from None
    try:
        image = shown(content).picture.convert("L" if channels == 1 else "RGB")
    except Image.UnidentifiedImageError:
        raise PhotoError(f"{file}: not an image that can be read; PNG and JPEG are") from None
    except UnknownRange as error:
        raise PhotoError(f"{file}: {error}") from None
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise PhotoError(f"{file}: cannot be decoded: {one_line(error)}") from None
    view = view if isinstance(view, View) else View(view, "center_crop", crop_fraction=1.0)
    return view.of(image)
