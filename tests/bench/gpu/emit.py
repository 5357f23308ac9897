"""Writes `emitted_300m.py`, which `train_300m.py` runs on machines that have PyTorch alone.

From the root of the checkout: ``python -m tests.bench.gpu.emit``.
"""

from __future__ import annotations

import json
from pathlib import Path

from rinsc.backends.torch.emit import emit_source
from rinsc.cost import training_flops
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec

PLACE = Path(__file__).with_name("emitted_300m.py")
SIGNATURE, PRESET = "(A^3)B", "300m"

_FACTS = '''

# What rinsc.cost counts for a step of one sequence at the context: fixed, and for each round.
CONTEXT = {context}
FLOPS_FIXED, FLOPS_OF_A_ROUND = {fixed}, {of_a_round}
BLOCKS = {blocks}
DIMENSIONS = {dimensions}


def training_flops(rounds: int, batch: int, seq: int) -> float:
    """Of a step over ``batch`` sequences of ``seq`` tokens, which is the context or near it."""
    return batch * seq / CONTEXT * (FLOPS_FIXED + rounds * FLOPS_OF_A_ROUND)
'''


def emitted() -> str:
    """The text of the file."""
    spec = model_spec(SIGNATURE, preset=PRESET)
    graph = build_graph(spec)
    one, two = (training_flops(spec, spec.context, rounds=rounds) for rounds in (1, 2))
    facts = _FACTS.format(
        context=spec.context,
        fixed=one - (two - one),
        of_a_round=two - one,
        blocks=json.dumps(list(graph.blocks)),
        dimensions=_dimensions(spec),
    )
    return f"# mypy: ignore-errors\n{emit_source(graph)}{facts}"


def _dimensions(spec: ModelSpec) -> str:
    """The arguments of the hand-written module."""
    values = {
        "vocab": spec.vocab_size,
        "width": spec.width,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "mlp_width": spec.mlp_width,
        "layers": spec.layers // 2,
        "context": spec.context,
    }
    lines = "".join(f'    "{name}": {value},\n' for name, value in values.items())
    return f"{{\n{lines}}}"


if __name__ == "__main__":
    PLACE.write_text(emitted(), encoding="utf-8")
