"""Test of `SIGKILL` at 6 or 20 moments of a run, which must end bit for bit as an undisturbed run does."""

import contextlib
import dataclasses
import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import forked
import pytest
from label_sets import labelled, write_labelled
from run_files import assert_same, final_state, rows
from tasks.test_two_stage import TINY
from tasks.test_two_stage_run import LEARNING

from aa_flax.training import default_config, resolve

PAUSE = 0.04  # seconds that the child stays at a place
KILLS = {
    20: Counter(step=8, save=6, delete=4, restore=2),
    6: Counter(step=2, save=2, delete=1, restore=1),
    3: Counter(step=1, save=1, restore=1),
}


def start(config_file, workdir, cache, more=None):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **(more or {})}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return forked.start(Path(__file__).parent / "drill_child.py", config_file, workdir, PAUSE, environment=environment)


def belongings(pid):
    """Return the shared-memory files and the child processes of a process."""
    proc = Path("/proc") / str(pid)
    lines = (proc / "maps").read_text().splitlines()
    files = {Path(line.split()[5]) for line in lines if "/dev/shm/" in line}
    children = set()
    for task in (proc / "task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended since
            children |= {int(child) for child in (task / "children").read_text().split()}
    return files, children


@pytest.fixture
def two_stage_config(detector_config):
    """A Faster R-CNN, which draws anchors and regions of each image at random, with images of two sizes."""
    detector_config.model.name, detector_config.model.options = "faster_rcnn_resnet18", {**TINY, **LEARNING}
    detector_config.data.train_sizes = ((48, 64), (64, 48))
    return detector_config


@pytest.fixture
def segmenter_config(tmp_path):
    """A UPerNet with images of two sizes: four steps an epoch."""
    config = default_config()
    config.batch_size, config.eval_batch_size, config.log_every_steps = 4, 3, 2
    config.task.name, config.model.name = "segmentation", "upernet_resnet18"
    config.model.options = dict(width=4, blocks=(1, 1, 1, 1), head_width=8, auxiliary_width=8, batch_norm_momentum=0.8)
    write_labelled(tmp_path / "tiny", labelled(train=16, val=5), "camvid")
    config.data.name, config.data.eval_split = "label_folder/tiny", "val"
    config.data.source_dir, config.data.data_dir = str(tmp_path / "tiny"), str(tmp_path / "tfds")
    config.data.crop, config.data.image_size, config.data.train_sizes = "scaled", (32, 40), ((32, 40), (40, 32))
    config.optimizer.learning_rate, config.optimizer.ema_decay = 0.01, 0.9
    return config


@pytest.mark.parametrize(
    ("name", "kills", "epochs"),
    [
        pytest.param("plain_config", 6, 12, marks=pytest.mark.thorough),
        pytest.param("plain_config", 20, 30, marks=pytest.mark.slow),
        pytest.param("detector_config", 3, 6, marks=pytest.mark.slow),
        pytest.param("two_stage_config", 3, 6, marks=pytest.mark.slow),
        pytest.param("segmenter_config", 3, 6, marks=pytest.mark.slow),
    ],
)
def test_kills_change_nothing(request, tmp_path, capsys, name, kills, epochs):
    drill(request.getfixturevalue(name), tmp_path, capsys, kills, epochs, tmp_path / "killed")


def drill(config, tmp_path, capsys, kills, epochs, workdir, more=None):
    """Compare a run that is killed, in `workdir`, with one on the disk that is not; `more` is of its environment."""
    config.epochs = epochs
    config.eval_every_epochs = epochs // 3
    config.checkpoint_every_minutes = 1e-6  # save after every log window
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(dataclasses.asdict(resolve(config))))
    with start(config_file, tmp_path / "straight", tmp_path / "cache") as child:
        assert child.communicate()[0].splitlines()[-1] == "finished True"

    drawn = random.Random(0)
    plan = list(KILLS[kills].elements())
    drawn.shuffle(plan)
    plan.sort(key=lambda kind: kind == "restore", reverse=False)
    plan = plan[: len(plan) // 2] + plan[-2:] + plan[len(plan) // 2 : -2]  # a restore needs a checkpoint
    fell = []
    for kind in plan:
        occurrence, delay = drawn.randint(1, 1 if kind == "restore" else 3), drawn.uniform(0, PAUSE)
        with start(config_file, workdir, tmp_path / "cache", more) as child:
            last, step = "", 0
            for line in child.stdout:
                last, step = line.strip(), step + (line == "step\n")
                occurrence -= last == kind
                if occurrence == 0:
                    break
            assert last == kind, f"ended with {last!r} before the kill in a {kind}"
            time.sleep(delay)
            files, children = belongings(child.pid)
            child.kill()
            rest = child.stdout.read().splitlines()
        assert not [file for file in files if file.exists()]
        assert not [process for process in children if (Path("/proc") / str(process)).exists()]
        fell.append(([last, *rest][-1], step))
    with capsys.disabled():
        print("\nkilled at " + ", ".join(f"{where} ({step} steps into its life)" for where, step in fell))
    counts = Counter(where for where, _ in fell)
    wanted = KILLS[kills]
    assert len(fell) == kills and all(counts[kind] >= wanted[kind] - 1 for kind in ("save", "delete", "restore"))

    with start(config_file, workdir, tmp_path / "cache", more) as child:
        assert child.communicate()[0].splitlines()[-1] == "finished True"
    assert_same(final_state(workdir), final_state(tmp_path / "straight"))
    assert rows(workdir) == rows(tmp_path / "straight")
    left = {child.name for child in (workdir / "checkpoints").iterdir()}
    assert left == {child.name for child in (tmp_path / "straight" / "checkpoints").iterdir()}
