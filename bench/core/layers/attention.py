"""Attention in plain products. Letters: N examples, L and S lengths, E embedding, H heads."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core.layers.dropout import dropped


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v, as torch.nn.functional.scaled_dot_product_attention has it."""
    weights = attention_weights(query, key, attn_mask, is_causal, scale, enable_gqa)
    groups = query.shape[-3] // value.shape[-3] if enable_gqa else 1
    return dropped(weights, dropout_p) @ (value.repeat_interleave(groups, -3) if groups > 1 else value)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None, grouped: bool = False
) -> Tensor:
    """softmax(q kᵀ scale + mask), [..., L, S]."""
    if grouped and query.shape[-3] != key.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)


class MultiheadAttention(nn.MultiheadAttention):
    """Heads, written out."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights if they are wanted."""
        lonely = query.dim() == 2
        if lonely:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [N, L, E]
        if self._qkv_same_embed_dim:
            parts = self.in_proj_weight.chunk(3)
        else:
            parts = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (functional.linear(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(len(x), 1, x.shape[-1])], 1) for x in (k, v))
        heads, added = self.num_heads, k.shape[1] - key.shape[1]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [N, H, L, E / H]
        mask = _joined(attn_mask, key_padding_mask, heads, added, q)
        weights = dropped(attention_weights(q, k, mask, is_causal and mask is None, None), self.dropout)
        output = functional.linear((weights @ v).transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        shown = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        if not self.batch_first:
            output = output.transpose(0, 1)
        if lonely:
            output = output.squeeze(0 if self.batch_first else 1)
            shown = None if shown is None else shown.squeeze(0)
        return output, shown


def _joined(mask: Tensor | None, padding: Tensor | None, heads: int, added: int, like: Tensor) -> Tensor | None:
    """What is added to the scores [N, H, L, S]; nn.MultiheadAttention's True means: not seen."""

    def as_sum(part: Tensor) -> Tensor:
        hidden = torch.zeros((), dtype=like.dtype, device=like.device)
        part = torch.where(part, -math.inf, hidden) if part.dtype == torch.bool else part
        return functional.pad(part, (0, added))

    total = None
    if mask is not None:
        total = as_sum(mask)
        total = total.unflatten(0, (-1, heads)) if total.dim() == 3 else total
    if padding is not None:
        shown = as_sum(padding)[:, None, None, :]
        total = shown if total is None else total + shown
    return total
