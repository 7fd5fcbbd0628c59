import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aa_flax
from aa_flax.config.fields import field, rules_of
from aa_flax.config.moved import MOVED, under_new_names
from aa_flax.config.schema import (
    MAY_CHANGE_ON_RESUME,
    MAY_DIFFER,
    Config,
    ConfigError,
    default_config,
    field_names,
    field_rules,
    flatten,
    resolve,
)


def test_defaults_survive_the_round_trip():
    assert resolve(default_config()) == Config() == resolve({})


def test_config_files_cannot_mistype():
    config = default_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.optimizer.lerning_rate = 0.1
    with pytest.raises(TypeError, match="epochs"):
        config.epochs = "many"
    config.optimizer.learning_rate = 1  # an int is accepted for float
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
        ({"optimizer": {"lr": 1.0}}, "unknown config field 'optimizer.lr'; it is 'optimizer.learning_rate' here"),
        ({"optimizer": {"zzz": 1}}, "unknown config field 'optimizer.zzz'; known fields: optimizer.name, .*ema_decay$"),
        ({"data": {"batch_size": 1}}, "unknown config field 'data.batch_size'; did you mean 'batch_size'"),
        ({"optimizer": {"data": 1}}, "unknown config field 'optimizer.data'"),
        ({1: 2}, "unknown config field '1'; known fields: "),
        ({"model": {"options": {1: 2}}}, "'model.options' must hold plain values .*: keys must be strings, got 1"),
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
        ({"optimizer": {"ema_decay": 1 - 1e-9}}, "'optimizer.ema_decay' must be less than 1 by 1e-6 or more"),
        ({"optimizer": {"weight_decay": -1.0}}, "'optimizer.weight_decay' must be at least 0, got -1.0"),
        ({"batch_size": 10, "optimizer": {"accumulation_steps": 3}}, r"'batch_size' \(10\) must divide by"),
        ({"data": {"crop": "resized"}}, "'data.crop' is 'resized', which needs 'data.image_size'"),
        ({"data": {"mean": (0.5,), "std": ()}}, "'data.mean' and 'data.std' differ in length"),
        ({"data": {"mean": (0.5,), "std": (0.0,)}}, "'data.std' must be above 0, got"),
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
            {"optimizer": {"warmup_steps": 500}},
            r"'optimizer.warmup' \(0.05\) and 'optimizer.warmup_steps' \(500\) are two",
        ),
        ({"optimizer": {"warmup": 0.0, "warmup_start": 0.1}}, "'optimizer.warmup_start' needs 'optimizer.warmup' or"),
        ({"optimizer": {"warmup_start": 1.5}}, r"'optimizer.warmup_start' must be in \[0, 1\], got 1.5"),
        (
            {"optimizer": {"schedule": "steps", "final_learning_rate": 0.1}},
            "'optimizer.final_learning_rate' is for 'optimizer.schedule' 'cosine' and 'polynomial', not 'steps'",
        ),
        (
            {"optimizer": {"final_learning_rate": 0.3}},
            r"'optimizer.final_learning_rate' \(0.3\) must be at most 'optimizer.learning_rate' \(0.2\)",
        ),
        ({"optimizer": {"polynomial_power": 0.9}}, "'optimizer.polynomial_power' is for 'optimizer.schedule' 'polyn"),
        ({"optimizer": {"layer_decay": 0.0}}, r"'optimizer.layer_decay' must be in \(0, 1\], got 0.0"),
        (
            {"data": {"train_sizes": ((480, 640), (512,))}},
            r"'data.train_sizes' must be heights and widths such as \(\(480, 640\), \(640, 480\)\), above 0, got",
        ),
        ({"data": {"train_sizes": (480, 640)}}, "'data.train_sizes' must be heights and widths such as"),
        ({"data": {"train_sizes": ((8, 0),)}}, "'data.train_sizes' must be heights and widths such as"),
        (
            {"data": {"train_sizes": ((8, 8),), "on_device": True}},
            "'data.on_device' excludes 'data.train_sizes', which work on the host",
        ),
        ({"seed": 2**32}, r"'seed' must be in \[0, 4294967296\), got 4294967296"),
        ({"profile_steps": (3, 3)}, r"'profile_steps' must be \(first, last\) with 0 < first < last, got \(3, 3\)"),
        ({"model": {"init_zero_output": True}}, "'model.init_zero_output' needs 'model.init_from'"),
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
        (
            {"data": {"scale_range": (1.2, 0.8)}},
            r"'data.scale_range' must be the least and the largest, got \(1.2",
        ),
        ({"data": {"scale_range": (1.0,)}}, "'data.scale_range' must be the least and the largest"),
        ({"data": {"scale_range": (0.0, 1.0)}}, r"'data.scale_range' must be above 0, got \(0.0, 1.0\)"),
        ({"data": {"scale_range": (1.0, float("inf"))}}, "'data.scale_range' must be finite, got inf"),
        (
            {"data": {"crop": "scaled", "image_size": 8, "scale_sides": (5, 4)}},
            r"'data.scale_sides' must be the shorter side and the most of the longer one.*got \(5, 4\)",
        ),
        ({"data": {"scale_sides": (4, 5)}}, "'data.scale_sides' goes with 'data.crop' = 'scaled' or 'data.resize'"),
        ({"data": {"most_of_one_class": 0.75}}, "'data.most_of_one_class' goes with 'data.crop' = 'scaled', got 'pad'"),
        ({"data": {"color_jitter": 1.5}}, r"'data.color_jitter' must be in \[0, 1\], got 1.5"),
    ],
)
def test_mistakes_are_told_in_one_line(tree, words):
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(tree)
    assert "\n" not in str(caught.value)


def test_what_may_change_or_differ_is_declared_at_the_field():
    assert {"label", "data.data_dir", "data.source_dir", "data.cache", "data.num_threads"} == MAY_DIFFER
    assert MAY_DIFFER < MAY_CHANGE_ON_RESUME < set(field_names())
    assert {"stop_after_epoch", "parallel.fsdp"} < MAY_CHANGE_ON_RESUME
    assert not {"seed", "batch_size", "optimizer.learning_rate", "parallel.batch_norm_groups"} & MAY_CHANGE_ON_RESUME


def test_every_field_takes_its_default_and_says_what_it_means():
    defaults, rules = flatten(Config()), field_rules()
    assert rules.keys() == defaults.keys() == field_names().keys()
    for name, each in rules.items():
        each.check(name, defaults[name])
        assert each.meaning, name


@pytest.mark.parametrize(
    ("bounds", "taken", "refused", "words"),
    [
        ({"at_least": 2}, [2, 3, (2, 5), ()], [1, (2, 1)], "at least 2"),
        ({"above": 2}, [2.5, ()], [2, (3, 2)], "above 2"),
        ({"at_most": 2}, [2, -9], [3], "at most 2"),
        ({"below": 2}, [1], [2], "below 2"),
        ({"at_least": 0, "below": 1}, [0, 0.5], [-0.1, 1], r"in \[0, 1\)"),
        ({"above": 0, "at_most": 1}, [0.5, 1], [0, 1.1], r"in \(0, 1\]"),
        ({"at_least": 0, "accepts": ("even", lambda v: v % 2 == 0)}, [4], [3], "even"),
    ],
)
def test_bounds_of_a_field(bounds, taken, refused, words):
    made = dataclasses.make_dataclass("Made", [("value", Any, field(None, "a value", **bounds))])
    rules = rules_of(made)["value"]
    for value in taken:
        rules.check("value", value)
    for value in refused:
        with pytest.raises(ConfigError, match=f"'value' must be {words}, got") as caught:
            rules.check("value", value)
        assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("old", MOVED)
def test_the_error_for_an_old_name_says_the_new_one(old):
    group, name = old.split(".")
    assert old not in field_names() and MOVED[old].name.rpartition(".")[0] in field_names()
    with pytest.raises(ConfigError, match=f"^config field '{old}' is '{MOVED[old].name}' now$"):
        resolve({group: {name: MOVED[old].default}})


def test_the_config_of_an_older_run_is_read_under_new_names():
    old = {"epochs": 3, "optimizer": {"loss": "cross_entropy", "label_smoothing": 0.1, "momentum": 0.5}}
    new = under_new_names(old)
    assert new == {"epochs": 3, "optimizer": {"momentum": 0.5}, "task": {"options": {"label_smoothing": 0.1}}}
    assert "loss" in old["optimizer"]  # which is left as it was
    assert under_new_names(new) == new
    config = resolve(new)
    assert under_new_names(dataclasses.asdict(config)) == dataclasses.asdict(config)


def test_every_field_is_read_somewhere():
    """A field that nothing reads would have no effect."""
    read = set()
    for file in Path(aa_flax.__file__).parent.rglob("*.py"):
        if "config" not in file.relative_to(Path(aa_flax.__file__).parent).parts:
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


def test_numbers_of_numpy_become_those_of_python():
    options = {"depth": np.int64(10), "kappa": np.float32(0.29), "stages": (np.int32(1), 2), "bias": np.bool_(True)}
    config = resolve(
        {"batch_size": np.int64(8), "data": {"crop_fraction": np.float32(0.7)}, "model": {"options": options}}
    )
    assert config.model.options == {"depth": 10, "kappa": 0.29, "stages": (1, 2), "bias": True}
    assert json.loads(json.dumps(dataclasses.asdict(config)))["batch_size"] == 8
    assert [type(value) for value in config.model.options.values()] == [int, float, tuple, bool]
    with pytest.raises(ConfigError, match="'model.options' must hold plain values"):
        resolve({"model": {"options": {"depth": np.arange(3)}}})
