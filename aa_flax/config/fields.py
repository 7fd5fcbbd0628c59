"""Declarations of config fields: type, default, meaning, accepted values and permissions, in one statement.

    batch_size: int = field(256, "images of a batch, of all devices together", at_least=1)

A choice between words is declared by the type, `Literal["pad", "none"]`. Conditions between several fields are in
`aa_flax.config.checks`.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from aa_flax.config.values import ConfigError, as_type

Value = TypeVar("Value")
Schema = TypeVar("Schema")
Test = Callable[[Any], bool]
Bound = int | float | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """The parts of a field's declaration other than its type and default.

    Attributes:
        meaning: the text of `--help`.
        accepts: pairs of a condition in words, such as "at least 1", and the function that tests it.
        form: what a value looks like, in the words of the field's own condition; "" if the type says enough.
        may_change: whether a run may resume with another value; True only for fields that do not affect what the run
            computes, apart from rounding.
        may_differ: whether the processes of one run may have different values.
    """

    meaning: str = ""
    accepts: tuple[tuple[str, Test], ...] = ()
    form: str = ""
    may_change: bool = False
    may_differ: bool = False

    def check(self, name: str, value: Any) -> None:
        """Check a value of the field called `name`.

        Raises:
            ConfigError: the value fails a condition; the message names the field, the condition and the value.
        """
        for accepted, fits in self.accepts:
            if not fits(value):
                raise ConfigError(f"config field {name!r} must be {accepted}, got {value!r}")


def field(
    default: Value,
    meaning: str,
    *,
    at_least: Bound = None,
    above: Bound = None,
    at_most: Bound = None,
    below: Bound = None,
    accepts: tuple[str, Test] | None = None,
    may_change: bool = False,
    may_differ: bool = False,
) -> Value:
    """Return a dataclass field with these rules, to be assigned where a plain default would be.

    Args:
        default: the value if none is given.
        meaning: a line for `--help`, which starts in lower case and ends without a full stop.
        at_least, above, at_most, below: bounds of the value, or of each item of a tuple.
        accepts: any other condition, in words that follow "must be", and the function that tests it.
        may_change, may_differ: see `Rules`.
    """
    conditions = _within(at_least, above, at_most, below) + ((accepts,) if accepts else ())
    metadata = {"rules": Rules(meaning, conditions, accepts[0] if accepts else "", may_change, may_differ)}
    if isinstance(default, dict):
        made: Any = dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    else:
        made = dataclasses.field(default=default, metadata=metadata)
    return made


def rules_of(schema: Any) -> dict[str, Rules]:
    """Return the rules of each field of a dataclass by name, without fields that are dataclasses themselves."""
    hints = get_type_hints(schema)
    return {
        each.name: each.metadata.get("rules", Rules())
        for each in dataclasses.fields(schema)
        if not dataclasses.is_dataclass(hints[each.name])
    }


def built(schema: type[Schema], tree: dict[Any, Any], prefix: str, unknown: Callable[[str], ConfigError]) -> Schema:
    """Build a dataclass from the values in a nested dict; missing fields keep their defaults.

    Args:
        schema: the dataclass, whose fields may be dataclasses.
        tree: values by name.
        prefix: the start of dotted names in errors, such as "task.options.".
        unknown: returns the error for the dotted name of a field that the schema does not have.

    Raises:
        ConfigError: an unknown field, a wrong type, or a value that its field does not accept.
    """
    hints, rules, values = get_type_hints(schema), rules_of(schema), {}
    for name, value in tree.items():
        if name not in hints:
            raise unknown(f"{prefix}{name}")
        if name in rules:
            values[name] = _of_type(prefix + name, hints[name], value, rules[name])
            rules[name].check(prefix + name, values[name])
        elif isinstance(value, dict):
            values[name] = built(hints[name], value, f"{prefix}{name}.", unknown)
        else:
            raise ConfigError(f"config field {prefix + name!r} must be a group of fields, got {value!r}")
    return schema(**values)


def _of_type(name: str, kind: Any, value: Any, rules: Rules) -> Any:
    """Return a value as one of its field's type; the error says what the field accepts in its own words, if it has."""
    try:
        return as_type(name, kind, value)
    except ConfigError:
        if not rules.form:
            raise
        raise ConfigError(f"config field {name!r} must be {rules.form}, got {value!r}") from None


def _within(at_least: Bound, above: Bound, at_most: Bound, below: Bound) -> tuple[tuple[str, Test], ...]:
    """Return the condition that the bounds make, in words and as a test; an empty tuple without bounds."""

    def fits(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(fits, value))
        low = (at_least is None or value >= at_least) and (above is None or value > above)
        return low and (at_most is None or value <= at_most) and (below is None or value < below)

    low = f"[{at_least}" if at_least is not None else f"({above}" if above is not None else ""
    high = f"{at_most}]" if at_most is not None else f"{below})" if below is not None else ""
    if low and high:
        return ((f"in {low}, {high}", fits),)
    words = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    return tuple((f"{word} {bound}", fits) for word, bound in words.items() if bound is not None)
