"""Tests of the text of `--help`, for a config and for every command."""

from pathlib import Path
from typing import Literal

import forked
import pytest
from absl import flags
from two_commands import COMMANDS

from aa_flax.config.command_line import define_config
from aa_flax.config.help import command_help
from aa_flax.config.schema import MAY_CHANGE_ON_RESUME, Config, field_names, field_rules, flatten

ROOT = Path(__file__).parents[2]


def entries(text):
    """Return the text beside each name on the left, with its lines joined."""
    found = {}
    for line in text.partition("Flags, --NAME=VALUE:")[2].splitlines():
        if line.startswith("  ") and line[2] != " ":
            name, _, rest = line.strip().partition(" ")
            found[name] = rest.strip()
        elif line.startswith(" " * 34):
            found[name] += " " + line.strip()
    return found


@pytest.fixture(scope="module")
def with_config():
    values = flags.FlagValues()
    define_config(values, required=True)
    flags.DEFINE_integer("rows", 8, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "infer"], "What to do...", flag_values=values)
    flags.DEFINE_multi_string("beside", [], "Others.", flag_values=values)
    return command_help("Do a thing.\n\n    example\n", values)


def test_every_field_is_told_with_meaning_type_bounds_and_default(with_config):
    told, rules, defaults = entries(with_config), field_rules(), flatten(Config())
    for name, kind in field_names().items():
        entry = told[name + "*" * (name in MAY_CHANGE_ON_RESUME)]
        assert entry.startswith(rules[name].meaning), name
        for condition, _ in rules[name].accepts:
            assert condition in entry, name
        if kind in (int, float, bool, str):
            assert f"({kind.__name__}, " in entry, name
        if kind in (int, float):
            assert entry.endswith(f"default {defaults[name]})"), name
    assert told["data.flip"].endswith("(bool, default true)")
    assert told["data.crop"].endswith('("pad", "resized", "scaled" or "none", default "pad")')
    assert field_names()["data.crop"] == Literal["pad", "resized", "scaled", "none"]
    assert told["optimizer.decay_at_epochs"].endswith("default (30.0, 60.0, 80.0, 90.0))")


def test_flags_are_told_as_fields_are(with_config):
    told = entries(with_config)
    assert with_config.startswith("Do a thing.\n\n    example\n\nFlags")
    assert told["config"].endswith("(file, required)")
    assert told["rows"] == "How many (positive integer, default 8)"
    assert told["mode"] == 'What to do... ("train" or "infer", default "train")'
    assert told["beside"] == "Others (str, may be given more than once)"


def test_lines_are_at_most_100_columns_wide(with_config):
    assert max(map(len, with_config.splitlines())) <= 100


@pytest.mark.few(3)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    module = f"aa_flax.{command}".removesuffix(".__main__")
    done = forked.run("-m", module, "--workdir=/nowhere", "--help", environment=environment, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert ("optimizer.learning_rate" in entries(done.stdout)) == (command in ("train", "evaluate", "plan", "sheet"))


def test_options_of_tasks_are_listed():
    from aa_flax.tasks import option_schemas

    found = entries(command_help("Train.", flags_with_config(), option_schemas()))
    for name in ("loss", "binary_targets", "label_smoothing"):
        assert "default" in found[f"task.options.{name}"]


def flags_with_config():
    values = flags.FlagValues()
    define_config(values)
    return values
