"""The order in which the examples of a split are stored, so that any part of it is like the whole."""

import collections
from collections.abc import Hashable, Sequence

import numpy as np

EVEN_VERSION = "1.1.0"
"""Version of data of folders with one split, whose examples are in an even order; older copies are in a random one."""


def random_order(count: int) -> list[int]:
    """Return a random order of so many examples, always the same."""
    return np.random.default_rng(0).permutation(count).tolist()


def even_order(groups: Sequence[Hashable]) -> list[int]:
    """Return an order, always the same, in which any part has its share of each group.

    The k-th example of a group of n, in a random order, has the place k / n, from 1 / n to 1; examples are sorted by
    their places. So of each group a part from place s to place t has (t - s) n examples, one more or less, and the last
    of all groups are at the end: a part there as long as the number of groups has one of each.

    Args:
        groups: the group of each example.
    """
    order = random_order(len(groups))
    sizes, seen = collections.Counter(groups), collections.Counter[Hashable]()
    places = {}
    for index in order:
        seen[groups[index]] += 1
        places[index] = seen[groups[index]] / sizes[groups[index]]
    return sorted(order, key=places.__getitem__)


def rarest(classes: Sequence[Sequence[int]]) -> list[int]:
    """Return for each photograph the class in it that the fewest photographs have; -1 for one without objects.

    In the even order of these groups, each class that several photographs have is in any part that is long enough.

    Args:
        classes: the classes of the objects of each photograph.
    """
    number = collections.Counter(label for labels in classes for label in {*labels})
    return [min({*labels}, key=lambda label: (number[label], label), default=-1) for labels in classes]
