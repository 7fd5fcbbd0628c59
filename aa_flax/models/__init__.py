"""Networks, which connect layers and contain no mathematics of their own."""

from aa_flax.models.detections import Detections
from aa_flax.models.faster_rcnn import FasterRCNN
from aa_flax.models.mask_rcnn import MaskRCNN
from aa_flax.models.mnasnet import MnasNet  # importing a family registers its names
from aa_flax.models.patchconvnet import PatchConvNet
from aa_flax.models.registry import create_model, list_models, model_options
from aa_flax.models.resnet import ResNet
from aa_flax.models.retinanet import RetinaNet
from aa_flax.models.semantic_fpn import SemanticFPN
from aa_flax.models.upernet import UPerNet
from aa_flax.models.wide_resnet import WideResNet

__all__ = [
    "Detections",
    "FasterRCNN",
    "MaskRCNN",
    "MnasNet",
    "PatchConvNet",
    "ResNet",
    "RetinaNet",
    "SemanticFPN",
    "UPerNet",
    "WideResNet",
    "create_model",
    "list_models",
    "model_options",
]
