"""Options of a trained network's task that scoring may change."""

import pytest

from aa_flax.config.schema import ConfigError, default_config, resolve
from aa_flax.tasks.scoring_options import parsed_options, scored_with


def of(task, **options):
    config = default_config()
    config.task.name, config.task.options = task, options
    return resolve(config)


def test_words_become_values_and_replace_those_of_the_run():
    config = of("segmentation", average="all", flip=False)
    found = parsed_options(config, ["flip=True", "scales=0.5,1", "window=(32,48)"])
    assert found == {"flip": True, "scales": (0.5, 1.0), "window": (32, 48)}
    assert scored_with(config, found).task.options == {"average": "all", **found}
    assert config.task.options == {"average": "all", "flip": False}
    assert scored_with(config, {}) == config


@pytest.mark.parametrize(
    ("task", "word", "said"),
    [
        ("segmentation", "flip", "expected NAME=VALUE"),
        ("segmentation", "flip=perhaps", "--option=flip=perhaps: must be true or false"),
        ("segmentation", "average=all", "'average' is no option by which segmentation .*window, stride, scales, flip"),
        ("segmentation", "flop=1", "'flop' is no option"),
        ("classification", "label_smoothing=0", "it has none"),
    ],
)
def test_others_are_refused(task, word, said):
    config = of(task)
    with pytest.raises(ConfigError, match=said):
        scored_with(config, parsed_options(config, [word]))
