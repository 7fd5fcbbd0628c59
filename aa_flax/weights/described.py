"""What a file of weights, or the `config.json` that timm writes beside one, says of the network that they are of.

Networks of timm may have the names and shapes of others and compute something else: `resnetaa50` and `resnetblur50` are
ResNet-50 with a smoothing pooling after each strided convolution. Only what is known to be the same is accepted.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from aa_flax.models.mnasnet import MnasNet
from aa_flax.models.resnet import ResNet
from aa_flax.weights.errors import WeightsError

_SAME: dict[type[nnx.Module], str] = {
    ResNet: r"(tv_|ssl_|swsl_)?resnet(18|26|34|50|101|152|200)|gluon_resnet(18|34|50|101|152)_v1b"
    r"|seresnet(18|34|50|101|152)",
    MnasNet: r"semnasnet_(050|075|100|140)|mnasnet_a1",
}
"""Architectures of timm and torchvision, as regular expressions, that compute what our networks do."""
_HARMLESS = {"num_classes", "in_chans", "global_pool", "zero_init_last", "pretrained", "scriptable", "cache_dir"}
_HARMLESS |= {"drop_rate", "drop_path_rate", "drop_block_rate"}  # nothing of these at evaluation
_MEANS = ("", "avg", "fast", "fastavg")  # spellings of the mean over the last map


class Description(NamedTuple):
    """What is said of a network.

    Attributes:
        where: the file, or the entry of a file, that says so.
        architecture: the name of the network.
        arguments: arguments with which it was built.
        pooling: the pooling before the classifier, "" if nothing is said.
        images: the images that it was trained on, in words; "" if nothing is said.
    """

    where: str
    architecture: str
    arguments: Mapping[str, Any]
    pooling: str = ""
    images: str = ""


def described(path: Path, content: Any) -> Description | None:
    """Return what `config.json` beside a file says or, if timm wrote none, the entry "arch" of the file's content.

    timm's training and PyTorch's example for ImageNet write that entry.
    """
    config = path.with_name("config.json")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # of another program, or no file: it says nothing
        values = None
    if isinstance(values, dict) and isinstance(values.get("architecture"), str):
        arguments = values.get("model_args")
        return Description(
            str(config),
            values["architecture"].partition(".")[0],
            arguments if isinstance(arguments, dict) else {},
            str(values.get("global_pool") or ""),
            _images(values.get("pretrained_cfg")),
        )
    arch = content.get("arch") if isinstance(content, Mapping) else None
    return Description(f"entry 'arch' of {path}", arch.partition(".")[0], {}) if isinstance(arch, str) else None


def check_description(model: nnx.Module, description: Description | None, source: str) -> tuple[str, ...]:
    """Return a note on what is said of the weights' network, if anything is.

    Raises:
        WeightsError: it is not known to compute what a plain network of `model`'s family computes.
    """
    same = next((pattern for kind, pattern in _SAME.items() if isinstance(model, kind)), None)
    if description is None or source not in ("timm", "torchvision") or same is None:
        return ()
    where, architecture, arguments, pooling, images = description
    way_out = (
        "; if you know that it computes the same, read the file from a folder without it, or pass dict(state_dict)"
    )
    if not re.fullmatch(same, architecture):
        raise WeightsError(
            f"{where}: the weights are of {architecture!r}, which may have the names and shapes of a "
            f"{type(model).__name__} here and compute something else{way_out}"
        )
    odd = {name: value for name, value in arguments.items() if name not in _HARMLESS}
    if pooling not in _MEANS and getattr(model, "head", None) is not None:
        odd["global_pool"] = pooling
    if odd:
        raise WeightsError(f"{where}: {architecture} was built with {odd}, which this library has not{way_out}")
    return (f"{where}: {architecture}{images and f', {images}'}",)


def _images(values: Any) -> str:
    """Return, in words, what timm's `pretrained_cfg` says of the images."""
    if not isinstance(values, dict):
        return ""
    names = {"input_size": "", "mean": "mean ", "std": "std ", "interpolation": "", "crop_pct": "crop "}
    said = [f"{word}{_flat(values[name])}" for name, word in names.items() if values.get(name)]
    return f"trained on images of {', '.join(said)}" if said else ""


def _flat(value: Any) -> str:
    return (
        "×".join(map(str, value)) if isinstance(value, list) and all(isinstance(n, int) for n in value) else str(value)
    )
