"""Rank four variants: the same training FLOPs for each, then the loss on held-out text.

`match_compute` says how many steps a variant gets for what the baseline spends.

    $ python rank_variants.py [FILE]
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import rinsc

VARIANTS = ("AB", "(A^2)B", "(A^3)B", "A(B^2)")
STEPS, BATCH, SEQ = 80, 8, 64
text = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "LICENSE"
data = torch.tensor(list(text.read_bytes()))
train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]
windows = held_out[: len(held_out) // (SEQ + 1) * (SEQ + 1)].view(-1, SEQ + 1)


def loss_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def trained(spec: rinsc.ModelSpec, steps: int) -> float:
    """Held-out loss, in nats a byte, after so many steps."""
    torch.manual_seed(0)
    model = rinsc.to_torch(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(train) - SEQ, (BATCH, 1))
        loss = loss_of(model, train[starts + torch.arange(SEQ + 1)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return loss_of(model.eval(), windows).item()


specs = [rinsc.model_spec(s, preset="tiny", layers=2, vocab_size=256) for s in VARIANTS]
tokens = BATCH * SEQ
rows = []
for spec in specs:
    plan = rinsc.match_compute(specs[0], spec, tokens=STEPS * tokens, batch_tokens=tokens, seq=SEQ)
    gflops = plan.variant_steps * plan.variant_step_flops / 1e9
    rows.append((trained(spec, plan.variant_steps), spec.text, plan.variant_steps, gflops))

print("loss   variant  steps  GFLOPs")
for loss, name, steps, gflops in sorted(rows):
    print(f"{loss:.3f}  {name:7}  {steps:5}  {gflops:6.1f}")
