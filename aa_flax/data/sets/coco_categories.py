"""The categories of COCO's JSON: what each file says, and whether the files of all splits say the same."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from aa_flax.data.errors import DataError
from aa_flax.data.sets.findings import Findings
from aa_flax.literal import quoted

_UNUSED = "categories without annotations that have another's name, left out"


def agreed_categories(documents: Mapping[str, tuple[Path, dict[str, Any]]], findings: Findings) -> dict[int, str]:
    """Return the name of each category by its id, in the order of the ids, on which the files must agree.

    Args:
        documents: the path and content of the file of each split.
        findings: where faults go: categories without a name or an integer id, two of one, and files that disagree.

    Raises:
        DataError: there are no categories.
    """
    # Compared as text, because what a file has there may be of any type.
    used = {
        str(each.get("category_id"))
        for _, document in documents.values()
        for each in document.get("annotations", [])
        if isinstance(each, dict)
    }
    of_file: dict[Path, dict[int, str]] = {}
    for path, document in documents.values():
        if names := _of_file(path, document.get("categories", []), used, findings):
            of_file[path] = names
        elif document.get("annotations"):
            findings.fault("categories", f"{path}: has annotations and no categories")
    if not of_file:
        findings.require_none()
        raise DataError(f"{next(iter(documents.values()))[0]}: no categories, so there are no classes")
    main = next(iter(of_file))  # of train, if it has categories
    for path, names in of_file.items():
        for key, name in sorted(names.items()):
            in_main = of_file[main].get(key)
            if in_main != name:
                has = f"which {main} does not have" if in_main is None else f"where {main} has {quoted([in_main])}"
                findings.fault("categories of splits", f"{path}: category {key} is {quoted([name])}, {has}")
    return dict(sorted(of_file[main].items()))


def _of_file(path: Path, categories: Sequence[Any], used: Collection[str], findings: Findings) -> dict[int, str]:
    """Return the name of each category of a file by its id.

    Of two with one name, one without annotations is left out: Roboflow's first category has the project's name.
    """
    names: dict[int, str] = {}
    for number, category in enumerate(categories):
        key, name = (category.get(k) for k in ("id", "name")) if isinstance(category, dict) else (None, None)
        if not is_integer(key) or not isinstance(name, str) or not name.strip():
            findings.fault("categories", f"{path}: category {number} needs an integer id and a name: {category!r}")
            continue
        if key in names:
            findings.fault("categories", f"{path}: two categories have the id {key}: {quoted([names[key], name])}")
            continue
        other = next((k for k, n in names.items() if n == name), None)
        if other is None:
            names[key] = name
        elif str(key) in used and str(other) in used:
            findings.fault("categories", f"{path}: the categories {other} and {key} are both {quoted([name])}")
        else:
            unused = other if str(key) in used else key
            findings.note(_UNUSED, f"{path}: {unused}")
            names[key] = name
            del names[unused]
    return names


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a value of JSON is an integer that a record can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
