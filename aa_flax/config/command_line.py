"""Command lines: `--config=FILE --config.FIELD=VALUE`, with every mistake told in one line."""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from aa_flax.config.help import command_help
from aa_flax.config.schema import ConfigError, field_names, unknown_field
from aa_flax.typed import guessed, parse

_HELP = frozenset({"--help", "-help", "-h", "-?", "--helpshort"})


def define_config(values: flags.FlagValues, required: bool = False) -> None:
    """Define `--config`, a Python file with `get_config()` (or `FILE:ARGUMENT` for `get_config(ARGUMENT)`)."""
    meaning = "Python file whose get_config() returns the run's config."
    config_flags.DEFINE_config_file("config", None, meaning, flag_values=values)
    if required:
        flags.mark_flag_as_required("config", flag_values=values)


def run(
    main: Callable[[list[str], flags.FlagValues], int | None],
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    expected: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted; the same command again goes on from the last checkpoint",
) -> NoReturn:
    """Parse the command line, call `main` and exit; config errors and the `expected` ones are one line and status 2.

    Args:
        main: is given what is no flag, the program's name first, and the values of the flags. What it returns is the
            exit status.
        define: defines the command's flags in the values that it is given. They are this call's own, so that two
            commands in one process share no flag.
        expected: errors that are told in one line.
        interrupted: the line for Ctrl-C.
    """
    values = flags.FlagValues()
    define(values)
    description = sys.modules[main.__module__].__doc__ or ""
    expected = (ConfigError, *expected)

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv, values)
        except expected as error:
            fail(str(error))
        except KeyboardInterrupt:
            print(f"error: {interrupted}", file=sys.stderr, flush=True)
            os._exit(130)  # a compilation may still run in a thread, which an orderly exit would pull the ground from

    logging.set_verbosity(logging.WARNING)  # --verbosity=0 shows what Orbax, TFDS and "auto" have to say
    app.run(guarded, flags_parser=functools.partial(_parse, values, description))
    raise AssertionError("app.run does not return")


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one line and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _parse(values: flags.FlagValues, description: str, argv: Sequence[str]) -> list[str]:
    known = field_names()
    end = argv.index("--") if "--" in argv else len(argv)  # what comes after is no flag
    own = _take_options(argv[:end])
    argv = sys.argv[:] = [*own, *argv[end:]]  # ml_collections reads sys.argv itself
    if _HELP.intersection(own):
        print(command_help(description, values))
        sys.exit()
    for argument in own[1:]:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            fail(str(unknown_field(match[1])))
    values.append_flag_values(flags.FLAGS)  # absl's own, such as --verbosity
    flags.FLAGS.mark_as_parsed()  # absl asks
    try:
        return values(list(argv))
    except flags.Error as error:
        text = str(error)
        if "Error whilst parsing config file" in text:  # with the whole traceback in it
            text = _file_mistake(text)
        fail(text)
    except Exception as error:  # from the config file itself
        fail(_explain(error, argv))


def _file_mistake(text: str) -> str:
    """The last frame and the last line of a traceback in a message."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in get_config', text)
    last = [line for line in text.strip().splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    place = f"{frames[-1][0]}, line {frames[-1][1]}: " if frames else ""
    return place + (last[-1] if last else text.strip().splitlines()[-1])


Fields = Callable[[str], Mapping[str, Any]]
"""From the name of a model or task to the name and type of each of its options; ValueError for an unknown name."""

_OPTION = r"--?config\.(model|task)\.options\.(\w+)"
_words: dict[str, dict[str, str]] = {"model": {}, "task": {}}
"""Of `--config.GROUP.options.NAME=WORD`, which ml_collections would accept only where the file has NAME."""


def _take_options(argv: Sequence[str]) -> list[str]:
    """The command line without the options of model and task, which are kept for `config_value`."""
    for words in _words.values():
        words.clear()
    rest = []
    for argument in argv:
        if match := re.fullmatch(rf"{_OPTION}=(.*)", argument, re.DOTALL):
            _words[match[1]][match[2]] = match[3]
        elif re.fullmatch(_OPTION, argument):
            fail(f"{argument}: needs a value, {argument}=VALUE")
        else:
            rest.append(argument)
    return rest


def config_value(values: flags.FlagValues, options: Mapping[str, Fields] = MappingProxyType({})) -> Any:
    """What config file and command line made; mistakes in either end in one line.

    Args:
        values: of the command's flags.
        options: for "model" and "task", what the options of each are; words of the command line become values of these
            types. Without, or for an option that is not among them, words that look like literals become these.
    """
    try:
        config = values.config
    except Exception as error:
        fail(_explain(error, sys.argv))
    # A file that cannot be opened comes as an object that raises at the first touch.
    failure = None if config is None else vars(config).get("_error")
    if isinstance(failure, Exception):
        fail(_explain(failure, sys.argv))
    for group, words in _words.items():
        if words and config is None:
            fail(f"--config.{group}.options.{next(iter(words))} needs --config=FILE")
        if words:
            _set_options(config[group], group, words, options.get(group))
    return config


def _set_options(group: Any, name: str, words: Mapping[str, str], fields: Fields | None) -> None:
    """Put the words of the command line into `options` of a config's group, as values."""
    try:
        types = {} if fields is None else fields(group.name)
    except ConfigError as error:
        fail(str(error))
    except ValueError as error:
        fail(f"config group {name!r}: {error}")
    with group.options.unlocked(), group.options.ignore_type():
        for option, word in words.items():
            try:
                group.options[option] = parse(types[option], word) if option in types else guessed(word)
            except ValueError as error:
                fail(f"flag --config.{name}.options.{option}={word}: {error}")


def _explain(error: Exception, argv: Sequence[str]) -> str:
    """What went wrong in the config file, where, and the nearest field if one was mistyped."""
    given = [a.split("=", 1)[1] for a in argv if re.match(r"--?config=", a)]
    file = given[0].split(":")[0] if given else "the config file"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    place = f"{file}, line {lines[-1]}" if lines else file
    missing = re.search(r'Key "(\w+)" does not exist', str(error))
    if missing:
        return f"{place}: {unknown_field(missing[1])}"
    return f"{place}: {type(error).__name__}: {error}"
