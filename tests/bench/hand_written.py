"""The module that a careful engineer would write by hand for (A^3)B, without rinsc."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        kv_width = width // heads * kv_heads
        self.norm1 = nn.RMSNorm(width, eps=1e-5)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_width, bias=False)
        self.v = nn.Linear(width, kv_width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.norm2 = nn.RMSNorm(width, eps=1e-5)
        self.w1 = nn.Linear(width, mlp_width, bias=False)
        self.w3 = nn.Linear(width, mlp_width, bias=False)
        self.w2 = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        h = self.norm1(x)
        q = self.q(h).view(batch, seq, self.heads, -1).transpose(1, 2)
        k = self.k(h).view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        v = self.v(h).view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        grouped = self.kv_heads != self.heads
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.o(h.transpose(1, 2).reshape(batch, seq, width))
        h = self.norm2(x)
        x = x + self.w2(F.silu(self.w1(h)) * self.w3(h))
        return x


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x.chunk(2, -1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)


class HandWritten(nn.Module):
    """Two blocks; the first is run three times."""

    def __init__(
        self,
        vocab: int,
        width: int,
        heads: int,
        mlp_width: int,
        layers: int,
        context: int,
        kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        sizes = (width, heads, kv_heads or heads, mlp_width)
        self.a = nn.ModuleList(Layer(*sizes) for _ in range(layers))
        self.b = nn.ModuleList(Layer(*sizes) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        half = width // heads // 2
        freq = 10000.0 ** (-torch.arange(half).float() / half)
        angle = torch.outer(torch.arange(context).float(), freq)
        self.cos: torch.Tensor
        self.sin: torch.Tensor
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: torch.Tensor, rounds: int = 3) -> torch.Tensor:
        x = self.embed(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for _ in range(rounds):
            for layer in self.a:
                x = layer(x, cos, sin)
        for layer in self.b:
            x = layer(x, cos, sin)
        logits: torch.Tensor = F.linear(self.norm(x), self.embed.weight)
        return logits
