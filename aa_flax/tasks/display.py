"""What `aa_flax.predict` may be asked to show of a task, as flags of its command line."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from absl import flags

from aa_flax.config.command_line import fail
from aa_flax.config.fields import rules_of
from aa_flax.tasks.table import TASKS, task_class
from aa_flax.tasks.task import recorded_display

Result = Callable[[], Mapping[str, Any] | None]
_KINDS: dict[type, Any] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define_displays(name: str, values: flags.FlagValues) -> None:
    """Define a flag for each field of the display options of a task, then of every other task of the library.

    Those of other tasks are there to be refused with a word, see `display_of`; where no run is known they are all that
    there may be.

    Args:
        name: of the task, a key of `TASKS` or "module:Class"; "" if no run is named.
        values: where the flags go; a name that is taken is left as it is.
    """
    for each in dict.fromkeys([*([name] if name else []), *TASKS]):
        display = task_class(each).display
        types, defaults = get_type_hints(display), dataclasses.asdict(display())
        of = f"Of {each}: " if each != name else ""
        for field, rules in rules_of(display).items():
            if field in values:
                continue
            meaning = f"{of}{rules.meaning[: 0 if of else 1].upper()}{rules.meaning[0 if of else 1 :]}."
            _KINDS[types[field]](field, defaults[field], meaning, flag_values=values)
            for accepted, fits in rules.accepts:
                flags.register_validator(field, fits, f"must be {accepted}", flag_values=values)


def display_of(task: Any, name: str, values: flags.FlagValues, result: Result) -> tuple[Any, list[str]]:
    """Return the display options that the flags ask for, and a line for each that was taken for the run's own.

    A task may have a method `recorded_display(result)`, which returns values by field that the result of a run says.
    They stand in the place of the defaults.

    Args:
        task: of the run.
        name: that the run's config gives it.
        values: of the command's flags, as `define_displays` defines them.
        result: returns the result of the run, None if it is not finished.
    """
    fields = [field.name for field in dataclasses.fields(task.display)]
    for other in TASKS:
        for field in rules_of(task_class(other).display):
            if field not in fields and values[field].present:
                own = " ".join(f"--{each}" for each in fields) or "no such flag"
                fail(f"--{field} is for runs of {other}; this run is of {name}, which has {own}")
    recorded = recorded_display(task, result)
    taken = {field: value for field, value in recorded.items() if not values[field].present}
    given = {field: taken.get(field, values[field].value) for field in fields}
    said = [f"{field} {value}, from the run's result.json; --{field} takes another" for field, value in taken.items()]
    return task.display(**given), said
