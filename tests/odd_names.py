"""Names of classes and files that people give, and that programs read as something else than names."""

import os

MARKUP = (
    r"$\frac$",
    "$x$",
    "a_b^c",
    "[red]x",
    "x[/red]",
    "[link=x]y",
    ":smile:",
    "<b>",
    "&lt;",
    "%s",
    "{0}",
    "\\textbf{x}",
)
SPACES = ("cat", "cat ", " cat", "cat\nbig", "cat\tbig", "cat\rbig", "c\u00a0t")
UNSEEN = ("\x1b[31mred", "\x1b]0;title\x07", "\x08\x08", "\u202eabc", "l\u2028s", "n\x85l", "z\u200bz", "\x7f")
SCRIPTS = ("e\u0301", "\u00e9", "c\u0430t", "\u732b", "\u0633\u200c\u0645", "\U0001f469\u200d\U0001f52c", "a" * 90)
BYTES = (os.fsdecode(b"\xff\xfebad"), os.fsdecode(b"caf\xe9"))
LIKE_OTHERS = ("-rf", "~", "a\\nb", "\\x1b", "NaN", "None", "0", "#", '"', "'")
NAMES = (*MARKUP, *SPACES, *UNSEEN, *SCRIPTS, *BYTES, *LIKE_OTHERS)

HARMFUL = ("\x1b", "\x07", "\x08", "\r", "\x7f", "\x85", "\u2028", "\u202e", "\u200b")
"""Characters that move, colour, turn or hide what stands beside them."""


def is_clean(text):
    """Return whether a terminal shows text as it is, line ends apart, in an encoding that has its letters."""
    text.encode()  # raises for lone surrogates
    return not any(character in text for character in HARMFUL)
