"""What the key tables say of a family of networks."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aa_flax.weights.rows import Row, fill, match


class Family(NamedTuple):
    """The key tables of a family of networks, by source, and its batch norms after convolutions.

    `followed_by` is a template of convolutions that may be augmented, and one of the batch norms that follow them.
    `stem` is the dotted path of the kernel that the images meet first, `heads` are those of the layers with entries for
    each class. `respelt` has, for sources whose names changed, the function from an older name to the table's.
    """

    sources: Mapping[str, tuple[Row, ...]]
    followed_by: tuple[str, str] = ("", "")
    stem: str = "stem.kernel"
    heads: tuple[str, ...] = ("head",)
    respelt: Mapping[str, Callable[[str], str]] = {}

    def norm_after(self, conv: str) -> str:
        """Return the dotted path of the batch norm that takes the output of the convolution at `conv`."""
        numbers = match(self.followed_by[0], conv)
        assert numbers is not None, conv
        return fill(self.followed_by[1], numbers)
