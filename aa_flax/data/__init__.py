"""Images with their targets: prepared by TFDS, read by Grain, augmented on the host and on the device.

`load` opens a data set, `train_batches` and `eval_batches` read it, and the functions of `augment.device`,
`augment.erasing` and `augment.mixing` run inside the jitted step. Names are imported at first use, so that these three
modules need neither tensorflow_datasets nor grain.
"""

import importlib
from typing import Any

from aa_flax.data.errors import DataError

_HOME = {
    "Dataset": "datasets",
    "available": "datasets",
    "register": "sets.own",
    "load": "datasets",
    "IndexBatches": "indices",
    "LabelMap": "label_maps",
    "Boxes": "boxes",
    "ClassLabel": "targets",
    "Source": "source",
    "Targets": "targets",
    "Truth": "annotated",
    "TolerantSource": "tolerant",
    "eval_batches": "pipeline",
    "steps_per_epoch": "pipeline",
    "train_batches": "pipeline",
    "color_jitter": "augment.device",
    "normalize": "augment.device",
    "random_crop": "augment.device",
    "random_flip": "augment.device",
    "cutout": "augment.erasing",
    "random_erasing": "augment.erasing",
    "cutmix": "augment.mixing",
    "mixup": "augment.mixing",
    "mixup_or_cutmix": "augment.mixing",
}
_SUBMODULES = ("augment", "datasets", "pipeline")

__all__ = ["DataError", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"aa_flax.data.{_HOME[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"aa_flax.data.{name}")
    raise AttributeError(f"module 'aa_flax.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBMODULES])
