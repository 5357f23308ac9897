"""Source of the functions that emitted modules carry along when an operation calls them."""

from __future__ import annotations

HELPERS: dict[str, str] = {
    "rotary_angles": '''
def rotary_angles(context: int, head_dim: int, theta: float) -> torch.Tensor:
    """Angle of each position and each pair of a head's dimensions: (context, head_dim / 2)."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return torch.outer(torch.arange(context, dtype=torch.float32), theta**-powers)
''',
    "rotate": '''
def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x (batch, heads, seq, head_dim), cos and sin (seq, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
''',
}
