"""Text of `--help`: the command's description, its flags, and the config fields if it takes a config."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from absl import flags

from aa_flax.config.fields import Rules, rules_of
from aa_flax.config.schema import Config
from aa_flax.typed import described

_WIDTH, _LEFT = 100, 34
_FLAG_TYPES = {
    "string": "str",
    "comma separated list of strings": "words, with commas between",
    "multi string": "str, may be given more than once",
    "config object": "file",
    "config fields": "in this form alone",
}


def command_help(description: str, values: flags.FlagValues, tasks: Mapping[str, type] = MappingProxyType({})) -> str:
    """Return the help of a command, at most 100 columns wide.

    Args:
        description: the docstring of the command's module.
        values: the command's flags, not yet parsed.
        tasks: dataclass of the options of each task by name, for commands that take a config.
    """
    lines = [*_paragraphs(description)]
    if names := sorted(values):
        lines += ["", "Flags, --NAME=VALUE:"]
        lines += [line for name in names for line in _flag(values[name], values)]
    if any(values[name].flag_type() in ("config object", "config fields") for name in names):
        lines += ["", "Fields of the config, as --config.NAME=VALUE; those with * may change when a run resumes:"]
        lines += config_fields()
        for task, schema in tasks.items():
            lines += ["", f"Options of the task {task}:", *config_fields(schema, "task.options.")]
    return "\n".join(lines)


def config_fields(schema: Any = Config, prefix: str = "") -> Iterator[str]:
    """Yield the lines that describe the fields of a config: name, meaning, accepted values and default."""
    hints, rules, defaults = get_type_hints(schema), rules_of(schema), schema()
    for name, each in rules.items():
        marked = prefix + name + "*" * each.may_change
        yield from _entry(marked, each.meaning, _takes(hints[name], each), f"default {_shown(getattr(defaults, name))}")
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            yield ""
            yield from textwrap.wrap(f"{prefix}{name}: {(kind.__doc__ or '').splitlines()[0]}", _WIDTH)
            yield from config_fields(kind, f"{prefix}{name}.")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a docstring: prose is wrapped again, an indented paragraph only where lines are too long."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        yield from [""] * (number > 0)
        if paragraph.startswith(" "):
            for line in paragraph.splitlines():
                indent = line[: len(line) - len(line.lstrip())]
                inner = textwrap.wrap(line.strip(), _WIDTH - len(indent), subsequent_indent="    ")
                yield from [indent + part for part in inner] if len(line) > _WIDTH else [line]
        else:
            yield from textwrap.wrap(paragraph, _WIDTH, break_on_hyphens=False)


def _flag(flag: flags.Flag[Any], values: flags.FlagValues) -> list[str]:
    choices = getattr(flag.parser, "enum_values", None)
    number = flag.parser.syntactic_help.removeprefix("a ").removeprefix("an ")  # such as "positive integer"
    takes = (
        _either([_shown(choice) for choice in choices])
        if choices
        else _FLAG_TYPES.get(flag.flag_type(), number or flag.flag_type())
    )
    default = [] if flag.default in (None, "", []) else [f"default {_shown(flag.default)}"]
    # absl adds a prefix to the help of choices and a suffix to that of lists.
    meaning = re.sub(r"^<[^>]*>: |;\s+repeat this option to specify a list of values$", "", flag.help or "")
    return _entry(flag.name, meaning, takes, *(["required"] if _is_required(flag, values) else default))


def _is_required(flag: flags.Flag[Any], values: flags.FlagValues) -> bool:
    """Return whether a flag's validators refuse its default, as those of a required flag refuse None."""
    try:
        for validator in flag.validators:
            validator.verify(values)
    except flags.ValidationError:
        return True
    return False


def _entry(name: str, meaning: str, *notes: str) -> list[str]:
    """Return the lines of one flag or field: its name on the left, the text to the right, or below a long name."""
    margin = f"  {name:<{_LEFT - 4}}  "
    above, first = ([], margin) if len(margin) == _LEFT else ([margin.rstrip()], " " * _LEFT)
    text = f"{meaning if meaning.endswith('...') else meaning.removesuffix('.')} ({', '.join(notes)})"
    indents = {"initial_indent": first, "subsequent_indent": " " * _LEFT}
    return above + textwrap.wrap(text, _WIDTH, break_on_hyphens=False, **indents)  # type: ignore[arg-type]


def _takes(kind: Any, rules: Rules) -> str:
    """Return the values that a field accepts, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        words = _either([_shown(each) for each in arguments])
    elif origin is tuple:
        inner = get_args(arguments[0]) if get_origin(arguments[0]) is tuple else ()
        words = f"tuple of tuples of {inner[0].__name__}" if inner else f"tuple of {arguments[0].__name__}"
    elif origin in (Union, UnionType):
        words = described(kind)
    else:
        words = (origin or kind).__name__
    return ", ".join([words, *(condition for condition, _ in rules.accepts)])


def _either(choices: Any) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


def _shown(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return str(value)
