"""Relative attention in PyTorch, to be timed beside ours.

There are two spellings of the paper's algorithm (Bello et al., 2019, equations 3 and 4, and the skewing of its
appendix), written from its equations: sums over axes by `einsum`, or products by `matmul`. The others are PyTorch's own
attention functions, which take the position terms as a float bias (SDPA) or add them to each logit (FlexAttention).

All take query, key [b, n, h, w, dk], value [b, n, h, w, dv], rel_height [2h-1, dk], rel_width [2w-1, dk], and return
[b, n, h, w, dv]: heads before positions, as PyTorch's functions expect them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def relative_to_absolute(logits: Tensor) -> Tensor:
    """Turn [..., l, 2l-1] by offset into [..., l, l] by key: pad a column, read rows of 2l-1, keep the right part."""
    *batch, length, offsets = logits.shape
    flat = F.pad(F.pad(logits, (0, 1)).flatten(-2), (0, offsets - length))
    return flat.reshape(*batch, length + 1, offsets)[..., :length, length - 1 :]


def position_logits(query: Tensor, rel_height: Tensor, rel_width: Tensor, *, einsum: bool) -> tuple[Tensor, Tensor]:
    """Return q·rel_height [b, n, h, w, h] and q·rel_width [b, n, h, w, w] for each query and key coordinate."""
    if einsum:
        by_row = torch.einsum("bnyxd,rd->bnxyr", query, rel_height)
        by_column = torch.einsum("bnyxd,rd->bnyxr", query, rel_width)
    else:
        by_row = (query @ rel_height.T).transpose(2, 3)
        by_column = query @ rel_width.T
    return relative_to_absolute(by_row).transpose(2, 3), relative_to_absolute(by_column)


def paper(query: Tensor, key: Tensor, value: Tensor, rel_height: Tensor, rel_width: Tensor, *, einsum: bool) -> Tensor:
    """Return attention by the paper's algorithm; logits, weights and what their gradients need are stored in memory."""
    b, n, h, w, _ = query.shape
    query = query * query.shape[-1] ** -0.5
    by_row, by_column = position_logits(query, rel_height, rel_width, einsum=einsum)
    q, k, v = (x.flatten(2, 3) for x in (query, key, value))
    logits = torch.einsum("bnid,bnjd->bnij", q, k) if einsum else q @ k.transpose(-1, -2)
    logits = logits.reshape(b, n, h, w, h, w)
    logits += by_row[..., :, None]
    logits += by_column[..., None, :]
    weights = logits.flatten(4).flatten(2, 3).softmax(-1)
    heads = torch.einsum("bnij,bnjd->bnid", weights, v) if einsum else weights @ v
    return heads.reshape(b, n, h, w, -1)


def sdpa(query: Tensor, key: Tensor, value: Tensor, rel_height: Tensor, rel_width: Tensor) -> Tensor:
    """Return attention by `scaled_dot_product_attention`, with the position terms as a float bias [b, n, hw, hw]."""
    b, n, h, w, _ = query.shape
    scale = query.shape[-1] ** -0.5
    by_row, by_column = position_logits(query * scale, rel_height, rel_width, einsum=False)
    bias = (by_row[..., :, None] + by_column[..., None, :]).reshape(b, n, h * w, h * w)
    q, k, v = (x.flatten(2, 3) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).reshape(b, n, h, w, -1)


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(query: Tensor, key: Tensor, value: Tensor, rel_height: Tensor, rel_width: Tensor) -> Tensor:
    """Return attention by compiled FlexAttention, which adds two position terms to each logit and stores no logits."""
    b, n, h, w, _ = query.shape
    scale = query.shape[-1] ** -0.5
    terms = position_logits(query * scale, rel_height, rel_width, einsum=False)
    by_row, by_column = (term.flatten(2, 3).contiguous() for term in terms)

    def score(logit: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return logit + by_row[batch, head, i, j // w] + by_column[batch, head, i, j % w]

    q, k, v = (x.flatten(2, 3) for x in (query, key, value))
    return _compiled_flex_attention()(q, k, v, score_mod=score, scale=scale).reshape(b, n, h, w, -1)


IMPLEMENTATIONS: dict[str, Attention] = {
    "pytorch_einsum": functools.partial(paper, einsum=True),
    "pytorch_matmul": functools.partial(paper, einsum=False),
    "pytorch_sdpa_bias": sdpa,
    "pytorch_flex": flex,
}
