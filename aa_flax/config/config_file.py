"""What is wrong with the config file that `--config` names, in one line."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from aa_flax.config.schema import unknown_field


def config_file(argv: Sequence[str]) -> str:
    """Return the file that `--config` names on a command line, "" if there is none."""
    given = [argument.split("=", 1)[1] for argument in argv if re.match(r"--?config=", argument)]
    return given[0].split(":")[0] if given else ""


def without_file(argv: Sequence[str]) -> str:
    """Return what is wrong with a command line whose config names no file that can be read, "" if nothing is."""
    given = [argument for argument in argv if re.match(r"--?config(=|$)", argument)]
    if any(re.fullmatch(r"--?config=", argument) for argument in given):
        return "--config= names no file, --config=FILE is expected"
    for value in (argument.partition("=")[2] for argument in given):
        if ":" in value and Path(value).expanduser().is_file():
            return f"--config={value}: a colon divides FILE:ARGUMENT, so the path of a config may have none"
    fields = [argument for argument in argv if re.match(r"--?config\.", argument)]
    return f"{fields[0]} needs --config=FILE, whose config it changes" if fields and not given else ""


def mistake_in(text: str) -> str:
    """Return the last line of a traceback in a message, after the file and line of its last `get_config` frame."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in get_config', text)
    last = [line for line in text.strip().splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    place = f"{frames[-1][0]}, line {frames[-1][1]}: " if frames else ""
    return place + (last[-1] if last else text.strip().splitlines()[-1])


def explain(error: Exception, argv: Sequence[str]) -> str:
    """Return a message with the error in the config file, its line, and the nearest field for an unknown one."""
    file = config_file(argv) or "the config file"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    place = f"{file}, line {lines[-1]}" if lines else file
    missing = re.search(r'Key "(\w+)" does not exist', str(error))
    if missing:
        return f"{place}: {unknown_field(missing[1])}"
    return f"{place}: {type(error).__name__}: {error}"


def returned_nothing(file: str) -> str:
    """Return the message about a config file whose `get_config` returns None."""
    return f"{file}: a config must be a ConfigDict or a dictionary, got None; does get_config() return it?"
