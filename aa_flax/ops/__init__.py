"""The mathematics as pure functions on arrays."""

from aa_flax.ops.attention_branch import attention_branch
from aa_flax.ops.convolution import convolution
from aa_flax.ops.gated_convolution import gated_convolution
from aa_flax.ops.max_pooling import max_pool
from aa_flax.ops.packed_attention import packed_attention
from aa_flax.ops.relative_attention import relative_attention_2d, relative_attention_weights_2d
from aa_flax.ops.resampling import average_pool, upsample
from aa_flax.ops.tables import resize_relative_table

__all__ = [
    "attention_branch",
    "average_pool",
    "convolution",
    "gated_convolution",
    "max_pool",
    "packed_attention",
    "relative_attention_2d",
    "relative_attention_weights_2d",
    "resize_relative_table",
    "upsample",
]
