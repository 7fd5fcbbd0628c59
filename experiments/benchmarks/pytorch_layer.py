"""The attention-augmented convolution in PyTorch, written from the paper's equations, to be timed beside ours."""

import torch
from torch import Tensor, nn

from experiments.benchmarks.pytorch_attention import paper


class AAConv2d(nn.Module):
    """concat[Conv(X), MHA(X)] for stride 1, without biases: [b, in, h, w] to [b, out, h, w].

    `conv` is 3×3, `qkv` and `out` are 1×1, and the heads share both tables, as in `aa_flax.layers.AAConv2D`.

    Args:
        in_features, out_features: channels.
        key_depth, value_depth: total over the heads.
        num_heads: number of heads.
        spatial_shape: (h, w), the only size of maps that it accepts.
        einsum: the spelling of its attention, see `pytorch_attention`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        key_depth: int,
        value_depth: int,
        num_heads: int,
        spatial_shape: tuple[int, int],
        *,
        einsum: bool,
    ) -> None:
        super().__init__()
        self.depths = (key_depth, key_depth, value_depth)
        self.num_heads = num_heads
        self.einsum = einsum
        self.conv = nn.Conv2d(in_features, out_features - value_depth, 3, padding=1, bias=False)
        self.qkv = nn.Conv2d(in_features, sum(self.depths), 1, bias=False)
        self.out = nn.Conv2d(value_depth, value_depth, 1, bias=False)
        depth = key_depth // num_heads
        self.rel_height, self.rel_width = (
            nn.Parameter(torch.randn(2 * length - 1, depth) * depth**-0.5) for length in spatial_shape
        )

    def attend(self, x: Tensor) -> Tensor:
        """Return the output of the attention branch, [b, in, h, w] to [b, dv, h, w]."""
        b, _, h, w = x.shape
        parts = (
            part.reshape(b, self.num_heads, -1, h, w).permute(0, 1, 3, 4, 2)
            for part in self.qkv(x).split(self.depths, 1)
        )
        query, key, value = (part.contiguous() for part in parts)
        heads = paper(query, key, value, self.rel_height, self.rel_width, einsum=self.einsum)
        return self.out(heads.permute(0, 1, 4, 2, 3).reshape(b, -1, h, w))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of both branches, concatenated."""
        return torch.cat([self.conv(x), self.attend(x)], 1)
