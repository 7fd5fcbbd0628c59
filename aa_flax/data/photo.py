"""An image file as the pixels that a network expects."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.images import FloatPixels, as_shown
from aa_flax.data.view import View


class PhotoError(Exception):
    """A file that is not a usable image; the message is one line and names it."""


def load_photo(file: str | Path, view: View | tuple[int, int], channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Read a PNG or JPEG (or whatever else Pillow reads) of any size as uint8 [h, w, c].

    In this order: turned upright as its EXIF says; 16 bits a channel scaled to 8; transparency composited over white;
    colour to grey (ITU-R 601 luma) or grey to three equal channels; seen as `view` says, for a network that a run has
    trained its `Preprocessing.view()`. For a mere (h, w) that is the largest centred part of this aspect.

    Raises:
        PhotoError: the file is missing, not an image, truncated, or of a kind without defined pixel range.
    """
    try:
        with Image.open(file) as opened:
            image = as_shown(opened).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise PhotoError(f"{file}: no such file") from None
    except Image.UnidentifiedImageError:
        raise PhotoError(f"{file}: not an image that can be read; PNG and JPEG are") from None
    except FloatPixels as error:
        raise PhotoError(f"{file}: {error}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{file}: cannot be decoded: {error}") from None
    view = view if isinstance(view, View) else View(view, "center_crop", crop_fraction=1.0)
    return view.of(image)
