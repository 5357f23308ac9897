"""SigLIP's loss of every picture with every text (arXiv 2303.15343), in little memory.

Each pair is one decision: whether the caption is that of the picture. Its logit is the product of
two unit vectors, times exp(logit_scale), plus logit_bias. The loss is -log sigmoid(logit) of pairs
that belong together, and -log sigmoid(-logit) of all others, summed over the texts. With softplus
that is sum(softplus(logits)) - sum(logits of those that belong together).

Logits are made for a chunk of texts at a time, and their gradients with them: no more than (chunk,
images) is ever held, and each product is computed once. Several processes hold a share of the
batch each; the texts go round them all, with their gradients, and come home.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

CHUNK = 256  # texts whose logits are held at once


def pair_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    captions: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    chunk: int = CHUNK,
    across: bool = True,
) -> torch.Tensor:
    """The loss summed over all texts and this process's pictures, in fp32.

    ``image`` and ``text`` (pairs, width) are embeddings of any length; equal ``captions`` (pairs,)
    belong together. With ``across`` the texts of all processes are seen, and each gets its gradient
    from all: the sum of all processes' losses is that of the whole batch, and so are the sums of
    their gradients, where all weigh their losses alike.
    """
    image, text = (F.normalize(rows.float(), dim=-1) for rows in (image, text))
    ring = dist.is_initialized() and dist.get_world_size() > 1 if across else False
    loss: torch.Tensor = _PairLoss.apply(  # type: ignore[no-untyped-call]
        image, text, scale.float(), bias.float(), captions, chunk, ring
    )
    return loss


@dataclass
class _Gradients:
    """Of the loss, as blocks of it add to them."""

    image: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor


class _PairLoss(torch.autograd.Function):
    """Loss and gradients in one pass over the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        text: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        captions: torch.Tensor,
        chunk: int,
        ring: bool,
    ) -> torch.Tensor:
        loss = image.new_zeros(())
        of = None
        if any(ctx.needs_input_grad):
            of = _Gradients(*(torch.zeros_like(value) for value in (image, scale, bias)))
        visiting, own = text, captions
        of_visiting = torch.zeros_like(text)
        with torch.autocast(image.device.type, enabled=False):
            for _ in range(dist.get_world_size() if ring else 1):
                for start in range(0, len(visiting), chunk):
                    rows = slice(start, start + chunk)
                    belongs = own[rows, None] == captions[None]
                    dots = visiting[rows] @ image.T
                    logits = dots * scale.exp() + bias
                    loss += F.softplus(logits).sum() - logits[belongs].sum()
                    if of is None:
                        continue
                    change = torch.sigmoid(logits) - belongs.to(logits.dtype)
                    of.bias += change.sum()
                    of.scale += (change * dots).sum() * scale.exp()
                    change *= scale.exp()
                    of.image += change.T @ visiting[rows]
                    of_visiting[rows] += change @ image
                if ring:
                    visiting, own, of_visiting = _handed_on(visiting, own, of_visiting)
        if of is not None:
            ctx.save_for_backward(of.image, of_visiting, of.scale, of.bias)
        return loss

    @staticmethod
    def backward(ctx: Any, of_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """All processes weigh their losses alike, as gradients of texts are of all of them."""
        gradients = ctx.saved_tensors
        return (*(of_loss * gradient for gradient in gradients), None, None, None)


def _handed_on(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the process before this one holds, in exchange for what the next one gets."""
    rank, count = dist.get_rank(), dist.get_world_size()
    received = [torch.empty_like(tensor) for tensor in tensors]
    operations = [
        *(dist.P2POp(dist.isend, x.contiguous(), (rank + 1) % count) for x in tensors),
        *(dist.P2POp(dist.irecv, x, (rank - 1) % count) for x in received),
    ]
    for request in dist.batch_isend_irecv(operations):
        request.wait()
    return tuple(received)
