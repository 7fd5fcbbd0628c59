import pytest

from aa_flax.config.schema import default_config, resolve
from aa_flax.training.loop import train


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Return the folder in which the embedded data set is prepared once for all tests."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def plain_config(data_dir):
    return plain(data_dir)


@pytest.fixture
def tiny_config(data_dir):
    return tiny(data_dir)


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """Return the directory of an undisturbed run of `plain_config` with two epochs."""
    config = plain(data_dir)
    config.epochs = 2
    folder = tmp_path_factory.mktemp("straight")
    train(resolve(config), folder)
    return folder


def tiny(data_dir):
    """Return a config of a WRN-10-1, augmented in its last stage, on embedded images of 8×8: 4 epochs of 4 steps."""
    config = default_config()
    config.epochs = 4
    config.batch_size = 16
    config.eval_batch_size = 24
    config.log_every_steps = 3
    config.model.options = dict(
        depth=10, widen_factor=1, attention_stages=(3,), num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3
    )
    config.data.data_dir = data_dir
    config.data.train_split = "train[:70]"
    config.data.eval_split = "test[:50]"
    config.data.image_size = 8
    config.data.crop_padding = 1
    config.optimizer.learning_rate = 0.05
    config.task.options.label_smoothing = 0.1
    config.optimizer.ema_decay = 0.9
    return config


def plain(data_dir):
    """Return the config of `tiny` without attention, which traces and compiles faster."""
    config = tiny(data_dir)
    config.model.name = "wide_resnet28_10"
    config.model.options = dict(depth=10, widen_factor=1)
    return config
