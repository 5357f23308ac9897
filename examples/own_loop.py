"""Train `(A^3)B` from Python, with a loop of your own.

A module of `rinsc.to_torch` is an ordinary `nn.Module`, so any optimizer and any loop will do.
The signature says that training sometimes skips a round, so the model is good at any depth.

    $ python own_loop.py [FILE]
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import rinsc

STEPS, BATCH, SEQ = 60, 8, 64
text = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "LICENSE"
data = torch.frombuffer(bytearray(text.read_bytes()), dtype=torch.uint8).long()  # a byte, a token
train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]

torch.manual_seed(0)
spec = rinsc.model_spec("(A^3{skip=0.5})B", preset="tiny", layers=2, vocab_size=256)
model = rinsc.to_torch(spec)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def loss_of(ids: torch.Tensor, rounds: dict[str, int] | int) -> torch.Tensor:
    """Cross-entropy of the next byte, in nats: ids (batch, seq + 1)."""
    logits = model(ids[:, :-1], rounds=rounds)
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


for step in range(STEPS):
    rounds = rinsc.draw_rounds(spec, seed=0, step=step)  # the same on every rank
    starts = torch.randint(len(train) - SEQ, (BATCH,))
    loss = loss_of(torch.stack([train[i : i + SEQ + 1] for i in starts]), rounds)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: rounds {rounds}, loss {loss.item():.3f}")

model.eval()
windows = held_out[: len(held_out) // (SEQ + 1) * (SEQ + 1)].view(-1, SEQ + 1)
for count in (1, 2, 3, 4):
    with torch.no_grad():
        print(f"rounds {count}: held-out loss {loss_of(windows, count).item():.3f}")

rinsc.save_weights(model, "own_loop.safetensors")
