"""Trainings of plain, squeeze-and-excitation and augmented networks on real images: equal budgets, seed after seed.

All networks of a data set have the same epochs, batch, learning rate and augmentation; a seed decides the initial
weights and the order of the images. Images are kept on the device and cropped and flipped there. The held-out split is
scored after every epoch. New seeds are started while time is left.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax import data
from aa_flax.data.indices import IndexBatches
from aa_flax.data.preprocessing import preprocessing_for
from aa_flax.training import resolve
from aa_flax.training.program import Program
from aa_flax.training.resident import resident
from aa_flax.training.sharding import Layout, place_batch
from experiments.benchmarks.candidates import reason
from experiments.benchmarks.gpu import record
from experiments.benchmarks.gpu.checks import Verdicts
from experiments.benchmarks.gpu.settings import Setting

_SMALL = {"depth": 10, "widen_factor": 1}


@dataclass(frozen=True)
class Task:
    """A data set and the networks that are trained on it."""

    data: str  # name for `aa_flax.data.load`
    file: str  # its source, in the folder of --data; "" if it comes with the library
    models: dict[str, tuple[str, dict[str, Any]]]
    epochs: int
    crop_padding: int
    held_out: str = "test"
    learning_rate: float = 0.1
    maps: tuple[str, ...] = field(default_factory=tuple)  # on which the augmented network attends


def _wide(options: dict[str, Any], attention: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "plain": ("wide_resnet28_10", options),
        "aa": ("aa_wide_resnet28_10", {**options, **attention}),
        "se": ("se_wide_resnet28_10", {**options, "reduction": 4}),
    }


TASKS = (
    Task(
        "imagenette128",
        "imagenette128_webp.npz",
        {"plain": ("resnet18", {}), "aa": ("aa_resnet18", {}), "se": ("se_resnet18", {})},
        epochs=30,
        crop_padding=16,
        held_out="validation",
        maps=("8x8",),
    ),
    Task(
        "cifar10_jpeg",
        "cifar10_jpeg.npz",
        _wide({"depth": 16, "widen_factor": 4}, {}),
        epochs=15,
        crop_padding=4,
        maps=("32x32", "16x16", "8x8"),
    ),
)
# The data set of `experiments/quickstart.py`, which needs no files.
_EMBEDDED = Task(
    "fashion_mnist_subset",
    "",
    _wide(
        _SMALL,
        {
            "num_heads": 2,
            "kappa": 0.25,
            "upsilon": 0.25,
            "min_key_depth_per_head": 8,
            "attention_downsample": (2, 1, 1),
        },
    ),
    epochs=12,
    crop_padding=2,
    maps=("14x14", "7x7"),
)


def run(setting: Setting) -> None:
    """Train runs while time is left, and write a row for each, with its curve."""
    result = setting.record("extra.json", "training", batch=_batch(setting), dtype="bfloat16", rows=[])
    verdicts = Verdicts(record.read(setting.out / "correct.json"))
    there = [task for task in TASKS if setting.data and (setting.data / task.file).exists()]
    tasks = setting.pick(there or [_EMBEDDED], [_EMBEDDED])
    images: dict[str, Images] = {}
    trainers: dict[tuple[str, str], Trainer] = {}
    every, longest = [(task, label) for task in tasks for label in task.models], 0.0
    for seed in range(setting.pick(100, 1)):
        for task, label in every:
            if setting.left() < max(longest, setting.pick(20.0, 0.0)):
                return
            started = time.monotonic()
            row: dict[str, Any] = {"data": task.data, "model": label, "seed": seed}
            try:
                if (task.data, label) not in trainers:
                    if task.data not in images:
                        images[task.data] = Images(task, setting)
                    attention = _implementation(task, verdicts)
                    trainers[task.data, label] = Trainer(task, label, images[task.data], attention, setting)
                row |= trainers[task.data, label].train(seed, setting.left)
            except Exception as error:  # the other networks go on
                row["not_measured"] = reason(error)
            longest = max(longest, time.monotonic() - started) if seed == 0 else longest
            result.add("rows", row)
            print({key: value for key, value in row.items() if key != "curve"}, flush=True)


def _batch(setting: Setting) -> int:
    return setting.pick(256, 16)


def _implementation(task: Task, verdicts: Verdicts) -> str:
    """Return the first implementation that no verdict excludes."""
    names = ("auto", "folded_pieces", "folded")
    return next(n for n in names if n == "folded" or not any(verdicts.objection(n, m, "bfloat16") for m in task.maps))


class Images:
    """A data set, with each of its splits on the device once."""

    def __init__(self, task: Task, setting: Setting) -> None:
        source = setting.data if task.file and setting.data else ""
        self.dataset = data.load(task.data, source_dir=source)
        self._most = setting.pick(1 << 30, 2 * _batch(setting))
        self._pools: dict[str, dict[str, Any]] = {}

    def on_device(self, split: str, layout: Layout) -> dict[str, Any]:
        """Return {"pool": {"image", "label"}}, as a training step takes it."""
        if split not in self._pools:
            split_of = self.dataset.split(split)
            most = min(len(split_of), self._most)
            self._pools[split] = resident(self.dataset.split(f"{split}[:{most}]"), layout)
        return self._pools[split]


class Trainer:
    """One network on one data set, compiled once for all seeds."""

    def __init__(self, task: Task, label: str, images: "Images", implementation: str, setting: Setting) -> None:
        name, options = task.models[label]
        self._options = options | ({"implementation": implementation} if label == "aa" else {})
        self._epochs, self._batch = setting.pick(task.epochs, 1), _batch(setting)
        self._config = resolve(
            {
                "epochs": self._epochs,
                "batch_size": self._batch,
                "model": {"name": name, "options": self._options, "dtype": "bfloat16"},
                "data": {
                    "name": task.data,
                    "eval_split": task.held_out,
                    "on_device": True,
                    "crop": "pad",
                    "crop_padding": task.crop_padding,
                },
                "optimizer": {"learning_rate": task.learning_rate, "warmup": 0.1},
                "task": {"options": {"label_smoothing": 0.1}},
            }
        )
        self._layout = Layout.of(self._config)
        self._preprocessing = preprocessing_for(self._config, images.dataset)
        self._train, self._held_out = (images.on_device(split, self._layout) for split in ("train", task.held_out))
        self._count = self._train["pool"]["label"].shape[0]
        self._step: Any = None
        self._score: Any = None

    def train(self, seed: int, left: Callable[[], float]) -> dict[str, Any]:
        """Train from a seed and return a row; without time left it ends early, with fewer `epochs` than `of_epochs`."""
        steps = self._count // self._batch
        program = self._program(seed, steps)
        started, curve = time.monotonic(), []
        with jax.set_mesh(self._layout.mesh):
            state = program.new_state()
            if self._step is None:  # one for all seeds
                self._step = program.train_step
                self._score = jax.jit(functools.partial(_scores, program))
            batches = IndexBatches(self._count, batch_size=self._batch, seed=seed)
            for epoch in range(1, self._epochs + 1):
                for batch in itertools.islice(batches, steps):
                    state = self._step(state, {**place_batch(batch, self._layout), **self._train})
                correct, loss = self._score((state.params, state.batch_stats), self._held_out["pool"])
                point = {"epoch": epoch, "accuracy": round(float(correct), 5), "loss": round(float(loss), 5)}
                curve.append(point | {"seconds": round(time.monotonic() - started, 2)})
                if left() < 0:
                    break
        return {
            "network": self._config.model.name,
            "options": self._options,
            "epochs": len(curve),
            "of_epochs": self._epochs,
            "accuracy": curve[-1]["accuracy"],
            "seconds": curve[-1]["seconds"],
            "steps_that_were_not_finite": int(state.skipped),
            "curve": curve,
        }

    def _program(self, seed: int, epoch_steps: int) -> Program:
        """Return the program of the run, with the initial weights of a seed."""
        config = dataclasses.replace(self._config, seed=seed)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return Program.of(config, self._preprocessing, self._layout, epoch_steps)


def _scores(program: Program, variables: Any, pool: dict[str, jax.Array]) -> tuple[Any, Any]:
    """Return accuracy and mean cross-entropy of all images, 500 at a time; the last 500 are filled up uncounted."""
    count = pool["label"].shape[0]
    piece = min(500, count)
    pieces = -(-count // piece)
    index = jnp.arange(pieces * piece)

    def of_piece(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = index % count
        logits = program.predictions(variables, pool["image"][at]).astype(jnp.float32)
        labels, counted = pool["label"][at], index < count
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
        return jnp.sum(counted * (logits.argmax(1) == labels)), jnp.sum(counted * losses)

    correct, losses = jax.lax.map(of_piece, index.reshape(pieces, piece))
    return correct.sum() / count, losses.sum() / count
