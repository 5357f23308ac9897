# mypy: ignore-errors
"""(A^3)B: 2 blocks, 4 visits at the rounds written."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import SupportsIndex, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn


def whole(value: object) -> int | None:
    """A whole number of whatever library as an int; None for anything else.

    Arrays and tensors without dimensions are among them; truth values and floats are not.
    """
    if type(value) is int:  # what torch.compile traces
        return value
    is_truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if is_truth or getattr(value, "ndim", 0) != 0 or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor without memory
        return None


Rounds: TypeAlias = int | Mapping[str, int] | None
# Of each repeat, as written, and at most.
ROUNDS = {"A": 3}
MAX_ROUNDS = 1024


def resolve_rounds(rounds: Rounds) -> Mapping[str, int]:
    """Rounds of each repeat: those written, one number for all of them, or by name."""
    if rounds is None:
        return ROUNDS
    given = {**ROUNDS, **rounds} if isinstance(rounds, Mapping) else dict.fromkeys(ROUNDS, rounds)
    asked = {name: whole(count) or 0 for name, count in given.items()}
    fits = all(1 <= count <= MAX_ROUNDS for count in asked.values())
    if asked.keys() != ROUNDS.keys() or not fits:
        fit = f"do not fit the repeats {list(ROUNDS)}, from 1 to {MAX_ROUNDS} each"
        raise ValueError(f"rounds {rounds!r} {fit}")
    return asked


def rotary_angles(context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Angle of each position and each pair of a head's dimensions: (context, head_dim / 2)."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return torch.outer(torch.arange(context, dtype=torch.float32), theta**-powers)


def rotary_table(function: str, context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Cosine or sine of the angles in the default type: (context, head_dim / 2)."""
    angles = rotary_angles(context, head_dim, theta)
    return (angles.cos() if function == "cos" else angles.sin()).to(torch.get_default_dtype())


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x (batch, heads, seq, head_dim), cos and sin (seq, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class LlamaLayer(nn.Module):
    """One layer: state to state."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(1024, eps=1e-05)
        self.query = nn.Linear(1024, 1024, bias=False)
        self.key = nn.Linear(1024, 256, bias=False)
        self.value = nn.Linear(1024, 256, bias=False)
        self.output = nn.Linear(1024, 1024, bias=False)
        self.mlp_norm = nn.RMSNorm(1024, eps=1e-05)
        self.gate = nn.Linear(1024, 2816, bias=False)
        self.up = nn.Linear(1024, 2816, bias=False)
        self.down = nn.Linear(2816, 1024, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        # x (batch, seq, 1024), cos (seq, 32), sin (seq, 32)
        h = self.attention_norm(x)  # (batch, seq, 1024)
        # (batch, 16, seq, 64)
        query = rotate(self.query(h).unflatten(-1, (-1, 64)).transpose(1, 2), cos, sin)
        # (batch, 4, seq, 64)
        key = rotate(self.key(h).unflatten(-1, (-1, 64)).transpose(1, 2), cos, sin)
        value = self.value(h).unflatten(-1, (-1, 64)).transpose(1, 2)  # (batch, 4, seq, 64)
        # (batch, 16, seq, 64)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))  # (batch, seq, 1024)
        h = self.mlp_norm(x)  # (batch, seq, 1024)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class LlamaBlock(nn.ModuleList):
    """Layers run one after the other; every visit uses the same weights."""

    def __init__(self, layers: int) -> None:
        super().__init__(LlamaLayer() for _ in range(layers))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x, cos, sin)
        return x


class Model(nn.Module):
    """Token ids (batch, seq ≤ 2048) to logits (batch, seq, 32000)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32000, 1024)
        self.register_buffer("cos", rotary_table("cos", 2048, 64, 10000.0), persistent=False)
        self.register_buffer("sin", rotary_table("sin", 2048, 64, 10000.0), persistent=False)
        self.A = LlamaBlock(12)
        self.B = LlamaBlock(12)
        self.final_norm = nn.RMSNorm(1024, eps=1e-05)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal weights; residual ones scaled for 96 additions to the state."""
        residual = {"output.weight", "down.weight"}
        ones = {"attention_norm.weight", "mlp_norm.weight", "final_norm.weight"}
        for path, parameter in self.named_parameters():
            name = ".".join(path.split(".")[-2:])
            if name in residual:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(96))
            elif name in ones:
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02)

    def reset_tables(self) -> None:
        """Make the tables that are computed, not trained."""
        self.register_buffer("cos", rotary_table("cos", 2048, 64, 10000.0), persistent=False)
        self.register_buffer("sin", rotary_table("sin", 2048, 64, 10000.0), persistent=False)

    def forward(self, input_ids: torch.Tensor, rounds: Rounds = None) -> torch.Tensor:
        if input_ids.shape[1] > 2048:
            raise ValueError(f"{input_ids.shape[1]} tokens exceed the context of 2048")
        counts = resolve_rounds(rounds)
        x = self.embedding(input_ids)  # (batch, seq, 1024)
        cos = self.cos[: input_ids.shape[1]]  # (seq, 32)
        sin = self.sin[: input_ids.shape[1]]  # (seq, 32)
        for _ in range(counts["A"]):
            x = self.A(x, cos, sin)
        x = self.B(x, cos, sin)
        return F.linear(self.final_norm(x), self.embedding.weight)  # (batch, seq, 32000)


# What rinsc.cost counts for a step of one sequence at the context: fixed, and for each round.
CONTEXT = 2048
FLOPS_FIXED, FLOPS_OF_A_ROUND = 2683280818176, 2280627634176
BLOCKS = ["A", "B"]
DIMENSIONS = {
    "vocab": 32000,
    "width": 1024,
    "heads": 16,
    "kv_heads": 4,
    "mlp_width": 2816,
    "layers": 12,
    "context": 2048,
}


def training_flops(rounds: int, batch: int, seq: int) -> float:
    """Of a step over ``batch`` sequences of ``seq`` tokens, which is the context or near it."""
    return batch * seq / CONTEXT * (FLOPS_FIXED + rounds * FLOPS_OF_A_ROUND)
