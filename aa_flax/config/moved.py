"""Config fields that have a new name, and the conversion of configs with old names."""

from typing import Any, NamedTuple


class Moved(NamedTuple):
    """The new name of a field.

    Attributes:
        name: the new dotted name.
        default: the default under the old name; a field with this value needs no entry under the new name.
    """

    name: str
    default: Any


MOVED = {
    "optimizer.loss": Moved("task.options.loss", "cross_entropy"),
    "optimizer.binary_targets": Moved("task.options.binary_targets", False),
    "optimizer.label_smoothing": Moved("task.options.label_smoothing", 0.0),
}
"""The moved fields, by their old dotted names."""


def under_new_names(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the config that a run of an older version recorded, with moved fields under their new names."""
    new = _copied(tree)
    for old, moved in MOVED.items():
        group = _group(new, old, make=False)
        last = old.rsplit(".", 1)[-1]
        if group is not None and last in group and (value := group.pop(last)) != moved.default:
            target = _group(new, moved.name, make=True)
            assert target is not None
            target.setdefault(moved.name.rsplit(".", 1)[-1], value)
    return new


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in tree.items()}


def _group(tree: dict[str, Any], name: str, make: bool) -> dict[str, Any] | None:
    """Return the dict that holds the last part of a dotted name.

    If the dict does not exist, the result is None, or a new one that is put into the tree if `make` is true.
    """
    for part in name.split(".")[:-1]:
        if make:
            tree.setdefault(part, {})
        if not isinstance(tree.get(part), dict):
            return None
        tree = tree[part]
    return tree
