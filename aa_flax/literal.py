"""Text that people wrote, such as names of things and files, as a terminal or a picture shows it: literally."""

import collections
import contextlib
import unicodedata
from collections.abc import Sequence

_JOINERS = "\u200c\u200d"  # they part and join letters of Persian and of Indian scripts, and parts of an emoji
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, lone surrogate, separators of lines and paragraphs
_LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455"  # Cyrillic
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423"
    "\u03bf\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",  # Greek
    "aeopcyxijsABEKMHOPCTXYoABEZHIKMNOPTYX",
)
"""Letters of other scripts by the Latin letter of the same shape."""


def literal(text: str) -> str:
    r"""Return text with each character that is not shown as itself as an escape, such as `\n`, `\x1b` or `\u202e`.

    These are control and format characters, which move, colour or turn what stands around them, and separators of
    lines. Bytes of a file name that are no UTF-8 are shown as `\xff`.
    """
    if text.isascii() and text.isprintable():
        return text
    # Where the locale is not UTF-8, Python reads each byte of a file name that is not ASCII as a lone surrogate.
    with contextlib.suppress(UnicodeEncodeError):  # surrogates that stand for no byte
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return "".join(map(_shown, text))


def literal_lines(text: str) -> str:
    """Return text of several lines, each as `literal` gives it."""
    return "\n".join(map(literal, text.split("\n")))


def told_apart(names: Sequence[str]) -> list[str]:
    """Return each name as it is shown, and those that look alike, as "cat" and "cat " do, as Python writes them.

    Names that differ are shown differently. They look alike if they differ in spaces, in characters that are not seen,
    in how Unicode composes a letter, or in the script of letters of one shape.
    """
    shown = [literal(name) for name in names]
    different: dict[str, set[str]] = collections.defaultdict(set)
    for name, text in zip(names, shown, strict=True):
        different[_look(text)].add(name)
    told = [ascii(name) if len(different[_look(text)]) > 1 else text for name, text in zip(names, shown, strict=True)]
    return told if len(set(told)) == len(set(names)) else [ascii(name) for name in names]


def quoted(names: Sequence[str], most: int = 3) -> str:
    """Return names in quotes, the first `most` and the number of the others, told apart."""
    shown = [told if told == ascii(name) else repr(name) for name, told in zip(names, told_apart(names), strict=True)]
    return ", ".join(shown[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode()


def _look(text: str) -> str:
    """Return what texts that look alike have in common."""
    composed = unicodedata.normalize("NFKC", text).translate(_LATIN)
    seen = "".join(c for c in composed if c not in _JOINERS and not 0xFE00 <= ord(c) <= 0xFE0F)
    return " ".join(seen.split())
