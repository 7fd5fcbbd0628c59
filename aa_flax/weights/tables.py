"""The key tables: the sources of each family of networks, and the names of its modules in each source."""

from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from aa_flax.models.heads import ClassHead
from aa_flax.models.mnasnet import MnasNet
from aa_flax.models.patchconvnet import PatchConvNet
from aa_flax.models.pyramid_detector import PyramidDetector
from aa_flax.models.resnet import ResNet
from aa_flax.models.segmenter import Segmenter
from aa_flax.models.wide_resnet import WideResNet
from aa_flax.weights.detector_tables import detector_family
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.families import Family
from aa_flax.weights.rows import CONV, LINEAR, LOGIT, NORM, POINTWISE, Leaf, Row, renamed, speaks_of

_TORCHVISION_RESNET = (
    Row("stem", "conv1", CONV),
    Row("bn", "bn1", NORM),
    Row("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}", CONV),
    Row("stage{s}.block{b}.bn{k}", "layer{s}.{b-1}.bn{k}", NORM),
    Row("stage{s}.block{b}.shortcut", "layer{s}.{b-1}.downsample.0", CONV),
    Row("stage{s}.block{b}.shortcut_bn", "layer{s}.{b-1}.downsample.1", NORM),
    Row("head", "fc", LINEAR),
)
# torchvision's names, and squeeze-and-excitation as two 1×1 convolutions.
_TIMM_RESNET = (
    *_TORCHVISION_RESNET,
    Row("stage{s}.block{b}.recalibration.squeeze", "layer{s}.{b-1}.se.fc1", POINTWISE),
    Row("stage{s}.block{b}.recalibration.excite", "layer{s}.{b-1}.se.fc2", POINTWISE),
)

# timm numbers the seven groups of MnasNet-A1; our stages are numbered by resolution: 4 and 5 have two groups each.
_TIMM_GROUPS = (
    ("stage2.block{b}", "blocks.1.{b-1}"),
    ("stage3.block{b}", "blocks.2.{b-1}"),
    *((f"stage4.block{i}", f"blocks.3.{i - 1}") for i in (1, 2, 3, 4)),
    *((f"stage4.block{i}", f"blocks.4.{i - 5}") for i in (5, 6)),
    *((f"stage5.block{i}", f"blocks.5.{i - 1}") for i in (1, 2, 3)),
    ("stage5.block4", "blocks.6.0"),
)
_TIMM_BLOCK = (
    ("expand", "conv_pw", CONV),
    ("expand_bn", "bn1", NORM),
    ("depthwise", "conv_dw", CONV),
    ("depthwise_bn", "bn2", NORM),
    ("squeeze_excite.squeeze", "se.conv_reduce", POINTWISE),
    ("squeeze_excite.excite", "se.conv_expand", POINTWISE),
    ("project", "conv_pwl", CONV),
    ("project_bn", "bn3", NORM),
)
_TIMM_MNASNET = (
    Row("stem", "conv_stem", CONV),
    Row("stem_bn", "bn1", NORM),
    # The first block does not expand, so that its names are shifted.
    Row("stage1.block1.depthwise", "blocks.0.0.conv_dw", CONV),
    Row("stage1.block1.depthwise_bn", "blocks.0.0.bn1", NORM),
    Row("stage1.block1.project", "blocks.0.0.conv_pw", CONV),
    Row("stage1.block1.project_bn", "blocks.0.0.bn2", NORM),
    *(
        Row(f"{block}.{ours}", f"{group}.{theirs}", kind)
        for block, group in _TIMM_GROUPS
        for ours, theirs, kind in _TIMM_BLOCK
    ),
    Row("conv", "conv_head", CONV),
    Row("bn", "bn2", NORM),
    Row("head", "classifier", LINEAR),
)

# The authors' code has blocks one by one; ours are stacked.
_DEIT = (
    *(Row(f"stem.conv{i + 1}", f"patch_embed.proj.{2 * i}.0", CONV) for i in range(4)),
    Row("trunk.blocks", "blocks.{n}", renamed(gamma="gamma_1"), axis=0),
    Row("trunk.blocks.norm", "blocks.{n}.norm1", NORM, axis=0),
    Row("trunk.blocks.pointwise1", "blocks.{n}.attn.qkv_pos.0", POINTWISE, axis=0),
    Row("trunk.blocks.depthwise", "blocks.{n}.attn.qkv_pos.2", CONV, axis=0),
    Row("trunk.blocks.squeeze_excite.squeeze", "blocks.{n}.attn.qkv_pos.4.conv_reduce", POINTWISE, axis=0),
    Row("trunk.blocks.squeeze_excite.excite", "blocks.{n}.attn.qkv_pos.4.conv_expand", POINTWISE, axis=0),
    Row("trunk.blocks.pointwise2", "blocks.{n}.attn.qkv_pos.5", POINTWISE, axis=0),
    Row("pooling", "", {"tokens": Leaf("cls_token", lambda x: x[0], lambda x: x[None])}),
    Row("pooling", "blocks_token_only.0", renamed(gamma1="gamma_1", gamma2="gamma_2")),
    Row("pooling.norm{k}", "blocks_token_only.0.norm{k}", NORM),
    Row("pooling.query", "blocks_token_only.0.attn.q", LINEAR),
    Row("pooling.key", "blocks_token_only.0.attn.k", LINEAR),
    Row("pooling.value", "blocks_token_only.0.attn.v", LINEAR),
    Row("pooling.out", "blocks_token_only.0.attn.proj", LINEAR),
    Row("pooling.mlp{k}", "blocks_token_only.0.mlp.fc{k}", LINEAR),
    Row("pooling.norm", "norm", NORM),
)
_DEIT_SINGLE = (*_DEIT, Row("head", "head", LINEAR))
_DEIT_MULTI = (*_DEIT, Row("head", "head.{n}", LOGIT, axis=-1))


_FAMILIES: dict[type[nnx.Module], Family] = {
    ResNet: Family(
        {"timm": _TIMM_RESNET, "torchvision": _TORCHVISION_RESNET},
        ("stage{s}.block{b}.conv{k}", "stage{s}.block{b}.bn{k}"),
    ),
    MnasNet: Family({"timm": _TIMM_MNASNET}, ("stage{s}.block{b}.expand", "stage{s}.block{b}.expand_bn")),
    # In a wide ResNet batch norms precede the convolutions, so that bn2 follows conv1.
    WideResNet: Family({}, ("stage{s}.block{b}.conv{k}", "stage{s}.block{b}.bn{k+1}")),
    PatchConvNet: Family({"deit": _DEIT_SINGLE}, stem="stem.conv1.kernel"),
}
_TOKEN_PER_CLASS: dict[type[nnx.Module], Family] = {
    PatchConvNet: Family({"deit": _DEIT_MULTI}, stem="stem.conv1.kernel")
}
"""The families whose tables differ for networks with a token for each class, because the classifier has other names."""


def respelt(model: nnx.Module, source: str, state_dict: Any) -> Any:
    """Return a state dict with the names that the network's key table has, where its source once had others."""
    newer = family_of(model).respelt.get(source)
    if newer is None or not isinstance(state_dict, Mapping):
        return state_dict
    return {newer(key) if isinstance(key, str) else key: value for key, value in state_dict.items()}


def _segmenter(model: Any) -> Family:
    """Return the family of a segmentation network, which takes weights of this library and those of its backbone."""
    backbone = family_of(model.backbone)
    conv, norm = (f"backbone.{template}" if template else "" for template in backbone.followed_by)
    heads = ("classifier.out", "auxiliary_head.classifier.out", "presence_head")
    return Family({}, (conv, norm), f"backbone.{backbone.stem}", heads)


def family_of(model: nnx.Module) -> Family:
    """Return the family of a network; raise WeightsError if there are no tables for it."""
    if isinstance(model, Segmenter):
        return _segmenter(model)
    if isinstance(model, PyramidDetector):
        return detector_family(model, family_of(model.backbone))
    several = isinstance(getattr(model, "head", None), ClassHead)
    for kind, family in _FAMILIES.items():
        if isinstance(model, kind):
            return _TOKEN_PER_CLASS.get(kind, family) if several else family
    kinds: list[type[nnx.Module]] = [*_FAMILIES, *PyramidDetector.__subclasses__(), Segmenter]
    known = ", ".join(kind.__name__ for kind in kinds)
    raise WeightsError(f"there is no key table for {type(model).__name__}; known: {known}")


def classifier_keys(model: nnx.Module, source: str, keys: Iterable[str]) -> set[str]:
    """Return those of PyTorch's keys that belong to the classifier by any table of the network's family."""
    families = [
        family for table in (_FAMILIES, _TOKEN_PER_CLASS) for kind, family in table.items() if isinstance(model, kind)
    ]
    rows = [row for family in families for row in family.sources.get(source, ()) if row.ours == "head"]
    return {key for key in keys if any(speaks_of(row, key) for row in rows)}


def table_of(model: nnx.Module, source: str) -> tuple[Row, ...]:
    """Return the key table of `model` for a source; raise WeightsError if there is none."""
    sources = family_of(model).sources
    if source not in sources:
        known = ", ".join(map(repr, sources)) or "none"
        raise WeightsError(f"there is no key table for {type(model).__name__} from {source!r}; sources: {known}")
    return sources[source]
