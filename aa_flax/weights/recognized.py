"""Which network of this library the weights in a PyTorch file are of, by their names and shapes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aa_flax.weights.errors import WeightsError
from aa_flax.weights.given import common_prefix

_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((2, 2, 2, 2), True): 26,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
    ((3, 24, 36, 3), True): 200,
}
"""The depth of a ResNet by its blocks of each stage and whether they are bottlenecks."""
_MNASNETS = {24: "075", 32: "100", 40: "125", 48: "140"}
"""The width of MnasNet-A1 by the channels of its first convolution."""
_PATCHCONVNETS = {384: "s", 768: "b", 1024: "l"}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.")


class Recognized(NamedTuple):
    """A network that weights are of.

    Attributes:
        name: as `create_model` has it.
        source: the library whose names the weights have.
    """

    name: str
    source: str


def recognize(state_dict: Mapping[str, Any], where: str = "the weights") -> Recognized:
    """Return the network of timm, torchvision or the authors of PatchConvNet that some weights are of.

    They say the network's kind and depth; whether all shapes fit is found when a network takes them.

    Args:
        state_dict: arrays by name, whatever stands before their names.
        where: what errors call them.

    Raises:
        WeightsError: they are of no network that this library has.
    """
    keys = [key for key in state_dict if isinstance(key, str)]
    for kind in (_resnet, _mnasnet, _patchconvnet):
        if found := kind(keys, state_dict):
            return found
    first = ", ".join(keys[:3]) or "none"
    raise WeightsError(
        f"{where}: of no network that is known here, by their names, which begin with {first}; known are ResNets (and "
        "the RetinaNet, Faster and Mask R-CNN around them), MnasNet-A1 and PatchConvNet"
    )


def _resnet(keys: Iterable[str], arrays: Mapping[str, Any]) -> Recognized | None:
    blocks = [match for key in keys if (match := _BLOCK.search(key))]
    if not blocks:
        return None
    numbers: dict[int, int] = {}
    for match in blocks:
        stage, block = int(match[1]), int(match[2])
        numbers[stage] = max(numbers.get(stage, 0), block + 1)
    bottleneck = any(re.search(r"layer1\.0\.conv3\.weight$", key) for key in keys)
    depth = _DEPTHS.get((tuple(numbers[stage] for stage in sorted(numbers)), bottleneck))
    if depth is None:
        return None
    squeeze = any(".se.fc1." in key for key in keys)
    name = f"{'se_' * squeeze}resnet{depth}"
    around = {
        "mask_rcnn_": ".mask_predictor.",
        "faster_rcnn_": ".box_predictor.",
        "retinanet_": ".classification_head.",
    }
    for prefix, sign in around.items():
        if any(sign in f".{key}" for key in keys):
            return Recognized(prefix + name, "torchvision")
    return Recognized(name, "timm" if squeeze else "torchvision")


def _mnasnet(keys: Iterable[str], arrays: Mapping[str, Any]) -> Recognized | None:
    prefix = common_prefix(keys, {"conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.6.0.se.conv_reduce.weight"})
    stem = arrays.get(f"{prefix}conv_stem.weight")
    width = None if stem is None else _MNASNETS.get(stem.shape[0])
    return Recognized(f"mnasnet_{width}", "timm") if width else None


def _patchconvnet(keys: Iterable[str], arrays: Mapping[str, Any]) -> Recognized | None:
    token = next((key for key in keys if key.endswith("blocks_token_only.0.attn.q.weight")), None)
    if token is None:
        return None
    depth = 1 + max((int(found[1]) for key in keys if (found := re.search(r"(?:^|\.)blocks\.(\d+)\.", key))), default=0)
    size = _PATCHCONVNETS.get(arrays[token].shape[0])
    multi = any(re.search(r"(^|\.)head\.\d+\.weight$", key) for key in keys)
    return Recognized(f"patchconvnet_{size}{depth}{'_multi' * multi}", "deit") if size and depth in (60, 120) else None
