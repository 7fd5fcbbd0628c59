"""Damage of encoded images that Pillow does not report: it gives pixels, some of which are wrong."""

import importlib.util
import re
import zlib

from aa_flax.data.encoded import png_chunks

_TOLERATED = re.compile(r"Corrupt JPEG data|[Pp]remature end")
"""What libjpeg says of data that it goes on to decode."""


def damage_in(encoded: bytes) -> str:
    """Return what is wrong with the data of a JPEG or PNG that can be decoded all the same, "" if nothing is known.

    Of a PNG, checksums are compared. Of a JPEG, libjpeg's warnings are taken, which notice most damage, not all; that
    needs simplejpeg (`pip install "aa_flax[fast]"`), without which nothing is said of JPEGs.
    """
    wrong = [
        name.decode("ascii", "backslashreplace")
        for name, start, end in png_chunks(encoded)
        if name[:1].isupper() and zlib.crc32(encoded[start + 4 : end - 4]) != int.from_bytes(encoded[end - 4 : end])
    ]
    if wrong:
        return f"the checksum of {wrong[0]} is wrong"
    if not encoded.startswith(b"\xff\xd8") or importlib.util.find_spec("simplejpeg") is None:
        return ""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(encoded, "GRAY")
    except ValueError as error:
        return str(error) if _TOLERATED.search(str(error)) else ""
    return ""
