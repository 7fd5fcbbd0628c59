"""Tests of command lines with a config and of the values of their flags."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from aa_flax.config import command_line

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def parse(monkeypatch):
    """Return a function that parses the words of a command, with `--config` as commands define it or as a string."""

    def parsed(*words, takes_config=True):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        values = flags.FlagValues()
        if takes_config:
            command_line.define_config(values)
        else:
            flags.DEFINE_string("config", None, "A file.", flag_values=values)
        command_line._parse(values, "", dict, sys.argv)
        return values

    return parsed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--config.data.eval_split=test"],
            "--config.data.eval_split=test needs --config=FILE, whose config it changes",
        ),
        (["--config.epochs", "3"], "--config.epochs needs --config=FILE, whose config it changes"),
        (["--config="], "--config= names no file, --config=FILE is expected"),
        (["-config=", "--config.epochs=3"], "--config= names no file, --config=FILE is expected"),
        (["--config.data=3"], "'data' is a group of config fields: data.name, "),
    ],
)
def test_fields_without_a_file(parse, capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_options_are_refused_by_a_command_whose_config_is_a_name_only(parse, capsys):
    assert parse("--config=x.py", takes_config=False).config == "x.py"
    with pytest.raises(SystemExit):
        parse("--config=x.py", "--config.model.options.depth=1", takes_config=False)
    assert "unknown command line flag '--config.model.options.depth'" in capsys.readouterr().err


def test_height_and_width(capsys):
    for text, size in (("224", (224, 224)), ("224x160", (224, 160)), ("96,64", (96, 64)), (" 8 ", (8, 8))):
        assert command_line.height_and_width("image_size", text) == size
    for text in ("", "0", "2x", "x2", "-3", "1x2x3", "8.5", "8 x 8"):
        with pytest.raises(SystemExit):
            command_line.height_and_width("image_size", text)
        assert f"error: --image_size must be SIDE or HEIGHTxWIDTH in pixels, such as 224 or 224x160, got {text!r}" in (
            capsys.readouterr().err
        )


def test_a_config_may_import_what_lies_beside_it(parse, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shared_by_configs.py").write_text("EPOCHS = 7\n")
    (tmp_path / "json.py").write_text("raise ImportError('the wrong json')\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\nfrom shared_by_configs import EPOCHS\nfrom aa_flax.config.schema import default_config\n"
        "def get_config():\n    config = default_config()\n    config.epochs = EPOCHS\n    return config\n"
    )
    monkeypatch.delitem(sys.modules, "shared_by_configs", raising=False)
    assert parse(f"--config={file}").config.epochs == 7


def test_a_colon_in_the_path_of_a_config_is_named(parse, tmp_path, capsys):
    file = tmp_path / "2026-11-27T12:00:00" / "mine.py"
    file.parent.mkdir()
    file.write_text("def get_config(word=''):\n    return {}\n")
    with pytest.raises(SystemExit):
        parse(f"--config={file}")
    assert capsys.readouterr().err.startswith(f"error: --config={file}: a colon divides FILE:ARGUMENT")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n  Buffer 1"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (RuntimeError("RESOURCE_EXHAUSTED: of another library"), False),
    ],
)
def test_a_device_without_memory_is_one_line(monkeypatch, capsys, error, told):
    def main(argv, values):
        raise error

    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(command_line.app, "run", lambda guarded, flags_parser: guarded(sys.argv))
    with pytest.raises(SystemExit if told else type(error)):
        command_line.run(main)
    line = capsys.readouterr().err
    assert (
        line.startswith("error: out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes. Buffer 1") == told
    )
    assert line.count("\n") == told


@pytest.mark.few(2)
@pytest.mark.parametrize("sink", ["full disk", "head"])
@pytest.mark.parametrize("what", ["output", "help"])
def test_output_of_a_command_that_cannot_be_written_is_one_line(sink, what):
    code = "import sys\nfrom aa_flax.config.command_line import run\n"
    code += "def main(argv, values):\n    print('x\\n' * 99999)\n"
    code += f"sys.argv = ['command'] + {['--help'] if what == 'help' else []!r}\n"
    code += "main.__globals__['__doc__'] = 'words. ' * 99999\nrun(main)\n"
    command, options = [sys.executable, "-c", code], {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    if sink == "head":
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as child:
            child.stdout.read(10)
            child.stdout.close()
            told, code = child.stderr.read(), child.wait(timeout=60)
        assert code == 1 and told == ""
    else:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, check=False, **options)
        assert done.returncode == 1
        assert done.stderr == "error: standard output cannot be written: No space left on device\n"
