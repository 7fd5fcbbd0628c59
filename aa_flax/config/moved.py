"""Fields that have another name than they had."""

from typing import Any, NamedTuple


class Moved(NamedTuple):
    """Where a field is now.

    Attributes:
        name: dotted, as of now.
        default: that it had under the old name, which means the same as none under the new one.
    """

    name: str
    default: Any


MOVED = {
    "optimizer.loss": Moved("task.options.loss", "cross_entropy"),
    "optimizer.binary_targets": Moved("task.options.binary_targets", False),
    "optimizer.label_smoothing": Moved("task.options.label_smoothing", 0.0),
}
"""By their old dotted names."""


def under_new_names(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the config that a run of an older version recorded, with what moved since under its new names."""
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
    """The dict that a dotted name lies in, made where it is missing, or None."""
    for part in name.split(".")[:-1]:
        if make:
            tree.setdefault(part, {})
        if not isinstance(tree.get(part), dict):
            return None
        tree = tree[part]
    return tree
