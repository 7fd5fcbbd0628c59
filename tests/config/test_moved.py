"""Tests of old names of moved fields, in config files and on the command line."""

import os
from pathlib import Path

import forked
import pytest

from aa_flax.config.moved import MOVED

ROOT = Path(__file__).parents[2]
FILE = """
from aa_flax.training import default_config


def get_config():
    config = default_config()
    {line}
    return config
"""


def error_of(tmp_path, line, *arguments):
    """Return the error of `train` for a config file that has this line."""
    file = tmp_path / "config.py"
    file.write_text(FILE.format(line=line))
    command = ["-m", "aa_flax.train", f"--config={file}", f"--workdir={tmp_path}/run", *arguments]
    done = forked.run(*command, environment={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()
    return done.stderr


@pytest.mark.few
@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_in_a_file(tmp_path, old):
    error = error_of(tmp_path, f"config.{old} = {MOVED[old].default!r}")
    assert error == f"error: {tmp_path}/config.py, line 7: config field {old!r} is {MOVED[old].name!r} now\n"


@pytest.mark.few(3)
@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("form", ["--config.{}={}", "-config.{}={}", "--config.{} {}"])
def test_an_old_name_on_the_command_line(tmp_path, old, form):
    error = error_of(tmp_path, "", *form.format(old, MOVED[old].default).split())
    assert error == f"error: config field {old!r} is {MOVED[old].name!r} now\n"
