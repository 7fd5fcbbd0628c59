"""Tests of the options of model and task on a command line, whose words become values of the options' types."""

import sys

import pytest
from absl import flags

from aa_flax.config import command_line
from aa_flax.config.schema import ConfigError, resolve
from aa_flax.tasks import OPTIONS

# ml_collections causes this warning when it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from aa_flax.config.schema import default_config

def get_config():
    config = default_config()
    config.model.name, config.model.options = "NAME", {"depth": 10}
    return config
"""


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Return a function that parses a command line and returns the config as commands get it."""

    def parse(*words, name="aa_wide_resnet28_10", options=OPTIONS):
        file = tmp_path / "config.py"
        file.write_text(CONFIG.replace("NAME", name))
        monkeypatch.setattr(sys, "argv", ["train", f"--config={file}", *words])
        values = flags.FlagValues()
        command_line.define_config(values)
        command_line._parse(values, "", dict, sys.argv)
        return command_line.config_value(values, options)

    return parse


def test_words_are_values_of_their_options(parsed):
    config = parsed(
        "--config.model.options.long_skips=false",
        "--config.model.options.depth=16",
        "--config.model.options.kappa=1",
        "--config.model.options.attention_downsample=2,1,1",
        "--config.model.options.attention_stages=3",
        "--config.model.options.pooling=attention",
        "--config.model.options.pooling_width=None",
        "--config.model.options.table_init=listing",
        "--config.task.options.loss=binary_cross_entropy",
        "--config.task.options.binary_targets=True",
        "--config.task.options.class_weights=1,2.5,0.5",
    )
    given = resolve(config).model.options
    assert given == {
        "depth": 16,
        "long_skips": False,
        "kappa": 1.0,
        "attention_downsample": (2, 1, 1),
        "attention_stages": (3,),
        "pooling": "attention",
        "pooling_width": None,
        "table_init": "listing",
    }
    assert given["long_skips"] is False and type(given["kappa"]) is float
    weights = {"class_weights": (1.0, 2.5, 0.5)}
    assert resolve(config).task.options == {"loss": "binary_cross_entropy", "binary_targets": True, **weights}
    config = parsed("--config.task.options.class_weights=balanced")
    assert resolve(config).task.options == {"class_weights": "balanced"}


def test_height_and_width_of_images(parsed):
    for word, size in (("480,640", (480, 640)), ("(480,640)", (480, 640)), ("[480, 640]", (480, 640)), ("640", 640)):
        assert resolve(parsed(f"--config.data.image_size={word}")).data.image_size == size
    for word, told in (("480x640", "'480x640'"), ("a", "'a'"), ("1,2,3,4", r"\(1, 2, 3, 4\)"), ("0,4", r"\(0, 4\)")):
        message = f"'data.image_size' must be one number, or height and width such as 480,640, above 0, got {told}"
        with pytest.raises(ConfigError, match=message):
            resolve(parsed(f"--config.data.image_size={word}"))


def test_the_model_may_be_named_beside_its_options(parsed):
    config = parsed("--config.model.options.blocks=(1,1,1,2)", "--config.model.name=resnet18")
    assert resolve(config).model.options["blocks"] == (1, 1, 1, 2)


def test_without_types_words_are_guessed_and_nothing_stays_from_before(parsed):
    words = ("long_skips=false", "depth=16", "position=sine", "attention_stages=(3,)")
    config = parsed(*(f"--config.model.options.{word}" for word in words), options={})
    expected = {"depth": 16, "long_skips": False, "position": "sine", "attention_stages": (3,)}
    assert resolve(config).model.options == expected
    assert resolve(parsed()).model.options == {"depth": 10}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model.options.long_skips=maybe", "must be true or false, got 'maybe'"),
        ("model.options.depth=1.5", "must be a whole number, got '1.5'"),
        ("model.options.position=cosine", "must be one of 'relative', 'none', 'sine', 'coordconv', got 'cosine'"),
        ("model.options.norm=batch_norm", r"must be a callable \(NormFactory\), which only Python can give"),
        ("task.options.label_smoothing=much", "must be a number, got 'much'"),
        (
            "task.options.class_weights=inverse",
            "must be 'balanced' or a tuple of float, written 0.5,1 or (0.5,1), got",
        ),
        ("task.options.loss=hinge", "must be one of 'cross_entropy', 'binary_cross_entropy', got 'hinge'"),
    ],
)
def test_words_of_another_type(parsed, capsys, word, told):
    with pytest.raises(SystemExit) as ended:
        parsed(f"--config.{word}")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: flag --config.{word}: {told}".replace("\\", ""))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config.model.options.kappa"], "--config.model.options.kappa: needs a value"),
        (["--config.task.options.loss"], "--config.task.options.loss: needs a value"),
        (["--config.model.options.a.b=1"], "unknown config field 'model.options.a.b'"),
        (["--config.model.name=resnet19", "--config.model.options.depth=2"], "config group 'model': there is no model"),
        (["--config.task.name=segment", "--config.task.options.loss=a"], "config field 'task.name' must be one of"),
    ],
)
def test_options_of_nothing(parsed, capsys, words, told):
    with pytest.raises(SystemExit):
        parsed(*words)
    assert capsys.readouterr().err.startswith(f"error: {told}")
