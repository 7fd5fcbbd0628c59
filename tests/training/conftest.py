import pytest

from aa_flax.config.schema import default_config, resolve
from aa_flax.training.loop import train


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the embedded data set is prepared once for all tests."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def plain_config(data_dir):
    return plain(data_dir)


@pytest.fixture
def tiny_config(data_dir):
    return tiny(data_dir)


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """An undisturbed run of two epochs of `plain_config`."""
    config = plain(data_dir)
    config.epochs = 2
    folder = tmp_path_factory.mktemp("straight")
    train(resolve(config), folder)
    return folder


def tiny(data_dir):
    """A WRN-10-1, augmented in its last stage, on 64 embedded images shrunk to 8×8: four epochs of four steps."""
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
    """The same without attention, for runs about something else: compiling and tracing takes all their time."""
    config = tiny(data_dir)
    config.model.name = "wide_resnet28_10"
    config.model.options = dict(depth=10, widen_factor=1)
    return config
