"""Settings that every test runs under.

Beartype checks the shapes in annotations, in tests only, unless AA_FLAX_TESTS_UNCHECKED is set. Eight CPU devices are
simulated, implicit rank promotion is an error, and warnings are errors (pyproject.toml).

`pytest -m gpu` runs on the GPU with all compiler optimisations; every other selection of tests runs on the CPU.
"""

import atexit
import collections
import contextlib
import gc
import importlib.util
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import where

where.prepare(sys.argv)  # before JAX is imported

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

gc.set_threshold(20_000, 20, 20)  # searches for the few cycles among many objects took a sixth of the time
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile many equal programs, in this process and in those that they start. The cache is not shared with other
# workers or kept for the next run: JAX writes entries in place and warns of half-written ones, which is an error.
_cache = tempfile.TemporaryDirectory(prefix="aa_flax-compilations-")
atexit.register(_cache.cleanup)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

if not os.environ.get("AA_FLAX_TESTS_UNCHECKED"):  # .ci/run sets it where the same tests run again
    jaxtyping.install_import_hook("aa_flax", "beartype.beartype")

# Files that take minutes with their thorough tests begin first, so that no worker is alone with one at the end.
_FIRST = ("test_notebooks", "test_sharding", "test_hosts", "test_kill_drill", "test_detection_run", "test_ledger")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Mark the cases of a test beyond what its mark `few` lets run, and put the longest files first."""
    items.sort(key=lambda item: item.path.stem not in _FIRST)
    cases = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("few"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, several in cases.items():
        few, number = several[0].get_closest_marker("few"), len(several)
        by_default, most = few.args[0] if few.args else 1, few.kwargs.get("thorough")
        if most:
            spread = {round(i * number / most) for i in range(most)}  # the kinds lie side by side in most lists
        else:  # all of a dozen, and of more two thirds, drawn so that each value of each argument is likely among them
            spread = {*random.Random(name).sample(range(number), number if number <= 12 else -(-2 * number // 3))}
        for place, item in enumerate(several):
            if place >= by_default:
                item.add_marker("thorough" if place in spread else "slow")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, in the process that hands out the files
def pytest_testnodedown(node, error):
    """Make the file that AA_FLAX_TESTS_IDLE names, which says that a worker has no file left."""
    if idle := os.environ.get("AA_FLAX_TESTS_IDLE"):
        Path(idle).touch()


@pytest.fixture(autouse=True)
def _fast_where_thorough(request):
    """Turn the shape checker off in long tests: the default ones have it, and tracing takes a third less without."""
    if request.node.get_closest_marker("thorough"):
        request.getfixturevalue("unchecked_shapes")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        asked = "" if where.on_gpu() else "; tests run on the CPU unless `-m gpu` asks for these alone"
        pytest.skip(f"needs a CUDA device, JAX uses {jax.devices()[0].device_kind}{asked}")
    if item.get_closest_marker("h100") and importlib.util.find_spec("jax_plugins") is None:
        pytest.skip("needs JAX's plugin for CUDA")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20190422)


@pytest.fixture
def optimized():
    """Turn all compiler optimisations on, for programs that run long or need them."""
    before = jax.config.read("jax_disable_most_optimizations")  # other settings are attributes, this one is not
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def unchecked_shapes():
    """Turn the shape checker off, so that a test gets the library's own error as a user does."""
    with _unchecked():
        yield


@pytest.fixture(scope="module")
def unchecked_file():
    """Turn the shape checker off for all tests of a file."""
    with _unchecked():
        yield


@contextlib.contextmanager
def _unchecked():
    """Turn the shape checker off, and leave it as it was: a test's fixture is inside its file's."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


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


@pytest.fixture
def detector_config(data_dir):
    return detector(data_dir)


@pytest.fixture(scope="session")
def straight(data_dir, tmp_path_factory):
    """An undisturbed run of two epochs of `plain_config`, which tests only read."""
    from aa_flax.config.schema import resolve
    from aa_flax.training.loop import train

    config = plain(data_dir)
    config.epochs = 2
    folder = tmp_path_factory.mktemp("straight")
    train(resolve(config), folder)
    return folder


def tiny(data_dir):
    """A WRN-10-1, augmented in its last stage, on 64 embedded images shrunk to 8×8: four epochs of four steps."""
    from aa_flax.config.schema import default_config

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


def detector(data_dir):
    """A RetinaNet around a ResNet-18 of a few channels, on 16 embedded photographs: two epochs of four steps."""
    from aa_flax.config.schema import default_config

    config = default_config()
    config.epochs = 2
    config.batch_size, config.eval_batch_size = 4, 3
    config.log_every_steps = 2
    config.task.name = "detection"
    config.model.name = "retinanet_resnet18"
    config.model.options = dict(
        width=4,
        blocks=(1, 1, 1, 1),
        fpn_width=8,
        head_width=8,
        head_depth=1,
        min_level=3,
        max_level=5,
        batch_norm_momentum=0.8,
    )
    config.data.name, config.data.data_dir = "bccd_subset", data_dir
    config.data.train_split, config.data.eval_split = "train[:16]", "test[:7]"
    config.data.crop, config.data.image_size, config.data.cache = "scaled", (48, 64), True
    config.optimizer.learning_rate = 0.01
    config.optimizer.ema_decay = 0.9
    return config
