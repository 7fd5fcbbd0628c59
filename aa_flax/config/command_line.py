"""Command lines `--config=FILE --config.FIELD=VALUE`, in which every mistake is reported in one line."""

import contextlib
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from logging import LogRecord
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from aa_flax.config.changes import take_changes, takes_changes
from aa_flax.config.config_file import config_file, explain, mistake_in, returned_nothing, without_file
from aa_flax.config.help import command_help
from aa_flax.config.named import UnknownConfig, located, make_importable
from aa_flax.config.output import Output, OutputError, flush
from aa_flax.config.schema import ConfigError, field_names, unknown_field
from aa_flax.literal import literal, literal_lines
from aa_flax.private_names import reason_for_no_config
from aa_flax.typed import guessed, parse

_HELP = frozenset({"--help", "-help", "-h", "-?", "--helpshort"})


def define_config(values: flags.FlagValues, required: bool = False) -> None:
    """Define the flag `--config`, a name or a Python file with `get_config()`; `:ARGUMENT` after it is passed on."""
    meaning = "Config: a name that `aa-flax configs` lists, or a Python file with get_config()."
    config_flags.DEFINE_config_file("config", None, meaning, flag_values=values)
    if required:
        flags.mark_flag_as_required("config", flag_values=values)


def define_workdir(values: flags.FlagValues, meaning: str = "Run directory of a trained network.") -> None:
    """Define the flag `--workdir`, which must be given and not be empty."""
    flags.DEFINE_string("workdir", None, meaning, required=True, flag_values=values)
    flags.register_validator(
        "workdir", lambda given: given is None or given.strip(), "names no folder", flag_values=values
    )


class _Checkpoint(flags.ArgumentParser[int | str]):
    """The word "last" or "best", or a step."""

    syntactic_help = 'a "last", "best" or step'

    def parse(self, argument: Any) -> int | str:
        """Return the word, or the number; raise ValueError for anything else."""
        if argument in ("last", "best") or isinstance(argument, int):
            return argument
        if str(argument).isdecimal():
            return int(argument)
        raise ValueError("must be last, best or the step of a checkpoint")


def define_checkpoint(values: flags.FlagValues) -> None:
    """Define the flag `--checkpoint`, whose value `aa_flax.training.load_model` takes."""
    meaning = "Whose weights: the newest undamaged one, that of the highest held-out score, or that of a step."
    flags.DEFINE(_Checkpoint(), "checkpoint", "last", meaning, flag_values=values)


def run(
    main: Callable[[list[str], flags.FlagValues], int | None],
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    expected: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted",
    tasks: Callable[[], Mapping[str, type]] = dict,
) -> NoReturn:
    """Parse the command line, call `main` and exit; config errors and `expected` errors print one line, with status 2.

    Args:
        main: called with the arguments that are no flags, the program's name first, and with the values of the flags;
            returns the exit status.
        define: defines the command's flags in the flag values that it is given. These belong to this call alone, so
            that two commands in one process share no flag.
        expected: exceptions that are reported in one line without a traceback.
        interrupted: the line that Ctrl-C prints; the exit status is then 130.
        tasks: returns the dataclass of the options of each task by name, which `--help` lists.
    """
    values = flags.FlagValues()
    define(values)
    description = sys.modules[main.__module__].__doc__ or ""
    expected = (ConfigError, *expected)

    def guarded(argv: list[str]) -> int | None:
        try:
            status = main(argv, values)
            flush()
            return status
        except OutputError as error:
            _end_without_output(error)
        except expected as error:
            fail(str(error), getattr(error, "exit_status", 2), getattr(error, "lines", ()))
        except Exception as error:
            if words := _fault_of_the_environment(error) or _out_of_memory(error):
                fail(words)
            raise
        except KeyboardInterrupt:
            print(f"error: {interrupted}", file=sys.stderr, flush=True)
            os._exit(130)  # an orderly exit would free what a thread that still compiles uses

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown as escapes; it must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a pipe that was opened for reading too cannot be changed
                stream.reconfigure(errors="backslashreplace")
    logging.get_absl_handler().python_handler.addFilter(_literally)
    logging.set_verbosity(logging.WARNING)  # --verbosity=0 shows the messages of Orbax, TFDS and "auto"
    before = sys.stdout
    sys.stdout = before if before is None else Output(before)
    try:
        app.run(guarded, flags_parser=functools.partial(_parse, values, description, tasks))
    finally:
        sys.stdout = before
    raise AssertionError("app.run does not return")


def _end_without_output(error: OutputError) -> NoReturn:
    """Exit because standard output cannot be written: quietly if nobody reads it, else with one line."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # Python writes what is left at its exit
    if error.errno == errno.EPIPE:
        sys.exit(1)
    fail(f"standard output cannot be written: {error.strerror}", 1)


def _literally(record: LogRecord) -> bool:
    """Let a logged message pass, with its control characters as escapes: it may quote names of files."""
    record.msg, record.args = literal_lines(record.getMessage()), ()
    return True


def _fault_of_the_environment(error: Exception) -> str:
    """Return what is wrong with the machine or its variables where that is what an error says, else ""."""
    if "Could not determine home directory" in str(error):
        return "a path begins with ~, and there is no home directory here (HOME is not set, and the user is unknown)"
    reason = str(error)
    if "Unable to initialize backend" not in reason:
        # For an absent GPU, JAX fails with an assertion that has no words.
        if reason or not isinstance(error, AssertionError) or "jax" not in sys.modules:
            return ""
        try:
            sys.modules["jax"].devices()
        except (RuntimeError, AssertionError) as again:
            reason = str(again) or "there is none"
        else:
            return ""
    asked = os.environ.get("JAX_PLATFORMS", "")
    reason = reason.partition(" (")[0].rstrip(".")
    return f"JAX has no device to compute on (JAX_PLATFORMS={asked}): {reason}; JAX_PLATFORMS=cpu always has one"


def _out_of_memory(error: Exception) -> str:
    """Return a message for an error by which JAX says that a device, or this machine, has no memory left; else ""."""
    text = " ".join(str(error).split())
    if not (type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in text):
        return ""
    return (
        f"out of memory: {text[:200]}; a smaller batch_size or eval_batch_size needs less, or more "
        "optimizer.accumulation_steps; `python -m aa_flax.plan` says what a step needs"
    )


def height_and_width(flag: str, text: str) -> tuple[int, int]:
    """Return the (height, width) in pixels that a flag's value names: SIDE, HEIGHTxWIDTH or HEIGHT,WIDTH."""
    sides = re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", text.strip())
    if not sides:
        fail(f"--{flag} must be SIDE or HEIGHTxWIDTH in pixels, such as 224 or 224x160, got {text!r}")
    return int(sides[1]), int(sides[2] or sides[1])


def fail(message: str, status: int = 2, lines: Sequence[str] = ()) -> NoReturn:
    """Print an error message to stderr, as one line or as the given lines in its place, and exit with `status`."""
    told = [literal(" ".join(line.split())) for line in lines or [message]]
    print("\n  ".join([f"error: {told[0]}", *told[1:]]), file=sys.stderr)
    sys.exit(status)


def _parse(
    values: flags.FlagValues, description: str, tasks: Callable[[], Mapping[str, type]], argv: Sequence[str]
) -> list[str]:
    known = field_names()
    for words in _words.values():
        words.clear()  # of a command line that this process parsed before
    end = argv.index("--") if "--" in argv else len(argv)  # arguments after it are no flags
    if takes_changes(values):
        try:
            own, changes = take_changes(argv[:end])
        except ConfigError as error:
            fail(str(error))
        values["config"].value = changes
    else:
        own = _take_options(argv[:end])
    if _HELP.intersection(own):
        try:
            print(command_help(description, values, tasks()))
            flush()
        except OutputError as error:
            _end_without_output(error)
        sys.exit()
    for argument in own[1:]:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            fail(str(unknown_field(match[1])))
    takes_config = "config" in values and values["config"].flag_type() == "config object"
    for group, words in _words.items():
        if words and not takes_config:
            fail(f"unknown command line flag '--config.{group}.options.{next(iter(words))}': no config here")
    if takes_config:
        own = _with_files(own)
    argv = sys.argv[:] = [*own, *argv[end:]]  # ml_collections reads sys.argv itself
    values.append_flag_values(flags.FLAGS)  # absl's own, such as --verbosity
    flags.FLAGS.mark_as_parsed()  # absl refuses access to flags that are not parsed
    if file := config_file(argv):
        make_importable(Path(file))
    try:
        return values(list(argv))
    except flags.Error as error:
        text = str(error)
        if missing := re.fullmatch(r"flag --(\w+)=None: Flag --\w+ must have a value other than None\.?", text):
            file = config_file(argv) if missing[1] == "config" else ""
            fail(returned_nothing(file) if file else f"--{missing[1]}=VALUE is required")
        if "Error whilst parsing config file" in text:  # the message contains the whole traceback
            text = mistake_in(text)
        fail(text)
    except Exception as error:  # from the config file itself
        fail(explain(error, argv))


def _with_files(argv: Sequence[str]) -> list[str]:
    """Return a command line in which each `--config` is one word with the file that is named."""
    rest = iter(argv)
    words = [f"--config={next(rest, '')}" if re.fullmatch("--?config", word) else word for word in rest]
    if mistake := without_file(words):
        fail(mistake)
    try:
        return [
            f"--config={located(each.partition('=')[2])}" if re.match("--?config=", each) else each for each in words
        ]
    except UnknownConfig as error:
        fail(str(error))


Fields = Callable[[str], Mapping[str, Any]]
"""Function from the name of a model or task to the name and type of each of its options.

It raises a ValueError for an unknown name.
"""

_OPTION = r"--?config\.(model|task)\.options\.(\w+)"
_words: dict[str, dict[str, str]] = {"model": {}, "task": {}}
"""Words of `--config.GROUP.options.NAME=WORD` by group and name.

ml_collections itself accepts only names that the config file sets.
"""


def _take_options(argv: Sequence[str]) -> list[str]:
    """Return the command line without the options of model and task, which go to `_words` for `config_value`."""
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
    """Return the config from the config file and the command line; a mistake in either prints one line and exits.

    Args:
        values: values of the command's flags.
        options: for "model" and "task", the function that returns the types of their options; words of the command
            line are converted to these types. An option without a known type becomes a Python literal if its word
            looks like one, otherwise a string.

    Returns:
        The config, or None if the command line has no `--config`.
    """
    try:
        config = values.config
    except Exception as error:
        fail(explain(error, sys.argv))
    if isinstance(config, dict):
        config = ml_collections.ConfigDict(config)
    if config is None and (file := config_file(sys.argv)):
        fail(returned_nothing(file))
    if config is not None and (reason := reason_for_no_config(config)):
        fail(explain(reason, sys.argv))
    for group, words in _words.items():
        if words and config is None:
            fail(f"--config.{group}.options.{next(iter(words))} needs --config=FILE")
        if words:
            _set_options(config[group], group, words, options.get(group))
    return config


def _set_options(group: Any, name: str, words: Mapping[str, str], fields: Fields | None) -> None:
    """Convert the words of the command line to values and store them in `options` of a config group."""
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
