"""Real text for the tests of trainers: what this project changed, in bytes or pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

PAGE = Path(__file__).parents[2] / "CHANGELOG.md"


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def tokenizer(vocab_size: int = 300) -> Any:
    """A byte-level tokenizer trained on the text, with a token for padding and one for the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text().splitlines(), trainer)
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)  # type: ignore[no-untyped-call]


def rows(seq: int, count: int, vocab_size: int = 300) -> list[dict[str, torch.Tensor]]:
    """The first ``count`` windows of ``seq`` tokens, with labels."""
    found = torch.tensor(tokenizer(vocab_size)(text())["input_ids"][: seq * count])
    return [{"input_ids": row, "labels": row} for row in found.view(count, seq)]
