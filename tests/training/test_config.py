import ast
from pathlib import Path

import pytest

import aa_flax
from aa_flax.config.schema import MAY_CHANGE_ON_RESUME, Config, ConfigError, default_config, field_names, resolve


def test_defaults_survive_the_round_trip():
    assert resolve(default_config()) == Config() == resolve({})


def test_config_files_cannot_mistype():
    config = default_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.optimizer.lerning_rate = 0.1
    with pytest.raises(TypeError, match="epochs"):
        config.epochs = "many"
    config.optimizer.learning_rate = 1  # an int serves as float
    config.model.options.anything = 3
    assert resolve(config).optimizer.learning_rate == 1.0
    assert resolve(config).model.options == {"anything": 3}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"optimizer": {"learnig_rate": 1.0}},
            "unknown config field 'optimizer.learnig_rate'; did you mean 'optimizer.l",
        ),
        ({"batchsize": 3}, "unknown config field 'batchsize'; did you mean 'batch_size'"),
        ({"momentum": 0.9}, "unknown config field 'momentum'; did you mean 'optimizer.momentum'"),
        ({"zzz": 0}, "unknown config field 'zzz'; known fields: .*optimizer.momentum"),
        ({"epochs": 1.5}, "'epochs' must be of type int, got 1.5"),
        ({"epochs": True}, "'epochs' must be of type int, got True"),
        ({"data": {"flip": 1}}, "'data.flip' must be of type bool, got 1"),
        ({"data": 3}, "'data' must be a group of fields, got 3"),
        ({"data": {"mean": 0.5}}, "'data.mean' must be a tuple, got 0.5"),
        (
            {"model": {"dtype": "float16"}},
            "'model.dtype' must be one of 'float32', 'bfloat16', 'float64', got 'float16'",
        ),
        ({"epochs": 0}, "'epochs' must be at least 1, got 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "'optimizer.learning_rate' must be finite, got nan"),
        ({"data": {"mean": (0.5,), "std": (float("inf"),)}}, "'data.std' must be finite, got inf"),
        ({"optimizer": {"ema_decay": 1.0}}, r"'optimizer.ema_decay' must be in \[0, 1\), got 1.0"),
        ({"optimizer": {"weight_decay": -1.0}}, "'optimizer.weight_decay' must be at least 0, got -1.0"),
        ({"batch_size": 10, "optimizer": {"accumulation_steps": 3}}, r"'batch_size' \(10\) must divide by"),
        ({"data": {"crop": "resized"}}, "'data.crop' is 'resized', which needs 'data.image_size'"),
        ({"data": {"mean": (0.5,), "std": ()}}, "'data.mean' and 'data.std' differ in length"),
        ({"data": {"mean": (0.5,), "std": (0.0,)}}, "'data.std' must be positive"),
        ({"optimizer": {"nesterov": True, "momentum": 0.0}}, "'optimizer.nesterov' needs 'optimizer.momentum'"),
        ({"optimizer": {"nesterov": True, "name": "rmsprop"}}, "'optimizer.nesterov' is for 'optimizer.name' 'sgd'"),
        (
            {"optimizer": {"name": "lamb"}},
            "'optimizer.weight_decay_mode' must be 'decoupled' with 'optimizer.name' 'lamb'",
        ),
        ({"optimizer": {"beta2": 1}}, r"'optimizer.beta2' must be in \[0, 1\), got 1.0"),
        ({"optimizer": {"rms_decay": 1.0}}, r"'optimizer.rms_decay' must be in \[0, 1\), got 1.0"),
        ({"optimizer": {"epsilon": 0}}, "'optimizer.epsilon' must be above 0, got 0.0"),
        ({"optimizer": {"decay_every_epochs": 0.0}}, "'optimizer.decay_every_epochs' must be above 0, got 0.0"),
        ({"optimizer": {"decay_factor": 0.0}}, r"'optimizer.decay_factor' must be in \(0, 1\], got 0.0"),
        ({"optimizer": {"decay_factor": 10.0}}, r"'optimizer.decay_factor' must be in \(0, 1\], got 10.0"),
        ({"optimizer": {"decay_at_epochs": (30, 30)}}, "'optimizer.decay_at_epochs' must be above 0 and increase"),
        ({"optimizer": {"decay_at_epochs": (0, 30)}}, "'optimizer.decay_at_epochs' must be above 0 and increase"),
        ({"optimizer": {"schedule": "steps", "decay_at_epochs": ()}}, "'steps', which needs 'optimizer.decay_at_"),
        (
            {"optimizer": {"binary_targets": True}},
            "'optimizer.binary_targets' needs 'optimizer.loss' 'binary_cross_entropy'",
        ),
        (
            {"optimizer": {"binary_targets": True, "loss": "binary_cross_entropy", "label_smoothing": 0.1}},
            "'optimizer.binary_targets' needs .* and no 'optimizer.label_smoothing'",
        ),
        ({"data": {"cutmix": -1}}, "'data.cutmix' must be at least 0, got -1.0"),
        ({"data": {"cutmix_probability": 1}}, r"'data.cutmix_probability' must be in \(0, 1\), got 1.0"),
        ({"data": {"random_erasing": 25}}, r"'data.random_erasing' must be in \[0, 1\], got 25.0"),
        (
            {"batch_size": 7, "data": {"cutmix": 1}},
            r"'batch_size' \(7\) must be even where 'data.mixup' or 'data.cutmix'",
        ),
        ({"data": {"repeats": 0}}, "'data.repeats' must be at least 1, got 0"),
        ({"batch_size": 8, "data": {"repeats": 3}}, r"'batch_size' \(8\) must divide by 'data.repeats' \(3\)"),
        ({"batch_size": 8, "data": {"repeats": 8, "mixup": 0.8}}, r"'data.repeats' \(8\) leaves each batch one image"),
        ({"data": {"auto_augment": "four"}}, "'data.auto_augment' must be one of '', 'rand', 'three', got 'four'"),
        ({"data": {"rand_augment_magnitude": -1}}, "'data.rand_augment_magnitude' must be at least 0, got -1.0"),
        ({"data": {"rand_augment_probability": 2}}, r"'data.rand_augment_probability' must be in \[0, 1\], got 2.0"),
        ({"data": {"fast_decode": True, "cache": True}}, "'data.fast_decode' and 'data.cache' exclude each other"),
        ({"data": {"corrupt_budget": -1}}, "'data.corrupt_budget' must be at least 0, got -1"),
        ({"data": {"color_jitter": 1.5}}, r"'data.color_jitter' must be in \[0, 1\], got 1.5"),
    ],
)
def test_mistakes_are_told_in_one_line(tree, words):
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(tree)
    assert "\n" not in str(caught.value)


def test_fields_that_may_change_exist():
    assert set(field_names()) >= MAY_CHANGE_ON_RESUME


def test_every_field_is_read_somewhere():
    """A key that nothing reads would promise what is not there."""
    read = set()
    for file in Path(aa_flax.__file__).parent.rglob("*.py"):
        if file.name != "config.py":
            read |= {n.attr for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Attribute)}
    unread = [name for name in field_names() if name.rsplit(".", 1)[-1] not in read]
    assert unread == []


@pytest.mark.parametrize("variant", ["aa", "plain"])
def test_quickstart_config_resolves(variant):
    import importlib.util

    file = Path(aa_flax.__file__).parents[1] / "experiments" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert resolve(module.get_config(variant)).data.name == "fashion_mnist_subset"
