"""Layers: the modules that own parameters."""

from aa_flax.layers.aa_conv import AAConv, AAConv2D
from aa_flax.layers.attention_depths import attention_depths
from aa_flax.layers.attention_pooling import AttentionPooling
from aa_flax.layers.aw_conv import AWConv2D
from aa_flax.layers.bam import BAM
from aa_flax.layers.cbam import CBAM
from aa_flax.layers.conv_norm_relu import ConvNormReLU
from aa_flax.layers.drop_path import drop_path, drop_path_rates
from aa_flax.layers.fpn import FPN
from aa_flax.layers.fpn_head import FPNHead
from aa_flax.layers.gala import GALA
from aa_flax.layers.gather_excite import GatherExcite
from aa_flax.layers.norm import batch_norm
from aa_flax.layers.pixel_classifier import FCNHead, PixelClassifier
from aa_flax.layers.plain_pyramid import PlainPyramid
from aa_flax.layers.position import coordinates, sinusoids
from aa_flax.layers.pyramid_head import PyramidHead
from aa_flax.layers.squeeze_excite import SqueezeExcite
from aa_flax.layers.transposed_conv import TransposedConv2x2
from aa_flax.layers.uper_head import PyramidPooling, UPerHead

__all__ = [
    "BAM",
    "CBAM",
    "FPN",
    "GALA",
    "AAConv",
    "AAConv2D",
    "AWConv2D",
    "AttentionPooling",
    "ConvNormReLU",
    "FCNHead",
    "FPNHead",
    "GatherExcite",
    "PixelClassifier",
    "PlainPyramid",
    "PyramidHead",
    "PyramidPooling",
    "SqueezeExcite",
    "TransposedConv2x2",
    "UPerHead",
    "attention_depths",
    "batch_norm",
    "coordinates",
    "drop_path",
    "drop_path_rates",
    "sinusoids",
]
