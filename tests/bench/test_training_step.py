"""A training step of the emitted module against the hand-written one, in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import SiglipConfig, SiglipModel

from rinsc.backends.torch import CompiledModule, compile_blocks, to_torch
from rinsc.objectives.sigmoid_pairs import PairModel
from rinsc.spec import ModelSpec, model_spec, towers_spec
from tests.bench.hand_written import HandWritten
from tests.bench.timing import interleaved, table

VOCAB, CONTEXT = 512, 128


def make_spec(width: int) -> ModelSpec:
    return model_spec(
        "(A^3)B",
        layers=4,
        width=width,
        heads=width // 16,
        mlp_width=width * 11 // 4,
        vocab_size=VOCAB,
        context=CONTEXT,
        tied_embedding=True,
    )


def pair(width: int) -> tuple[CompiledModule, HandWritten]:
    """The emitted module, and the hand-written one with the same weights."""
    ours = to_torch(make_spec(width))
    theirs = HandWritten(VOCAB, width, width // 16, width * 11 // 4, 2, CONTEXT)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
    return ours, theirs


def step(model: Any, input_ids: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        logits = model(input_ids)
        loss: Any = F.cross_entropy(logits.flatten(0, 1), input_ids.flatten())
        loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return run


def compare(width: int, batch: int, runs: int, *, compiled: bool) -> float:
    torch.set_num_threads(1)
    ours, theirs = pair(width)
    if compiled:
        compile_blocks(ours)
        theirs.compile()
    input_ids = torch.randint(VOCAB, (batch, CONTEXT))
    timings = interleaved(
        {"hand-written": step(theirs, input_ids), "rinsc": step(ours, input_ids)}, runs=runs
    )
    word = "compiled" if compiled else "eager"
    print("\n" + table(f"training step, width {width}, {word}", timings, "hand-written"))
    return timings["rinsc"].median / timings["hand-written"].median


def paired_steps(width: int, batch: int) -> dict[str, Callable[[], object]]:
    """A step of SigLIP with AdamW: ours, and that of transformers in the same loop."""
    torch.set_num_threads(1)
    both: dict[str, Any] = {
        "width": width,
        "heads": width // 64,
        "mlp_width": 4 * width,
        "layers": 4,
    }
    spec = towers_spec("image: AB, text: CD", preset="siglip-tiny", **both)
    text = spec.towers["text"]
    sizes = {
        **{"hidden_size": width, "num_attention_heads": both["heads"]},
        **{"intermediate_size": 4 * width, "num_hidden_layers": 4},
    }
    config_class: Any = SiglipConfig
    config = config_class(
        text_config={**sizes, "vocab_size": text.vocab_size, "max_position_embeddings": 16},
        vision_config={**sizes, "image_size": 32, "patch_size": 4},
    )
    model_class: Any = SiglipModel
    theirs = model_class(config).train()
    ours: Any = PairModel(to_torch(spec)).train()
    pixels, ids = torch.randn(batch, 3, 32, 32), torch.randint(text.vocab_size, (batch, 16))
    labels = torch.arange(batch)

    def trained(model: Any, loss_of: Callable[[], Any]) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def run() -> None:
            loss_of().backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    return {
        "transformers": trained(
            theirs, lambda: theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
        ),
        "rinsc": trained(ours, lambda: ours(pixels, ids, labels)["loss"]),
    }


@pytest.mark.parametrize(("width", "batch", "runs"), [(128, 16, 40), (256, 8, 30)])
def test_a_step_of_siglip_against_transformers(width: int, batch: int, runs: int) -> None:
    timings = interleaved(paired_steps(width, batch), runs=runs)
    print("\n" + table(f"training step of SigLIP, width {width}", timings, "transformers"))
    assert timings["rinsc"].median / timings["transformers"].median <= 1.03


@pytest.mark.parametrize(
    ("width", "batch", "runs", "bar"), [(256, 4, 30, 1.03), (32, 4, 150, 1.10)]
)
def test_eager(width: int, batch: int, runs: int, bar: float) -> None:
    assert compare(width, batch, runs, compiled=False) <= bar


def test_compiled_by_block_against_compiled_whole() -> None:
    assert compare(256, 4, 30, compiled=True) <= 1.0


def test_the_hand_written_module_computes_the_same() -> None:
    ours, theirs = pair(64)
    input_ids = torch.randint(VOCAB, (2, 33))
    torch.testing.assert_close(ours(input_ids), theirs(input_ids), atol=1e-4, rtol=1e-4)
