"""The models of the inference benchmarks, and what decodes them token by token with rinsc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rinsc.backends.onnx import RoundsForm, Session, to_onnx
from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.graph import Rounds
from rinsc.spec import ModelSpec, model_spec
from tests.bench.turns import Decoder

VOCAB = 8192


def decoder_spec(signature: str, layers: int | None = None) -> ModelSpec:
    return model_spec(
        signature,
        layers=layers,
        width=512,
        heads=8,
        mlp_width=1408,
        vocab_size=VOCAB,
        context=2048,
    )


def random_module(spec: ModelSpec) -> CompiledModule:
    torch.manual_seed(0)
    return to_torch(spec).eval()


def prompt(context: int) -> npt.NDArray[np.int64]:
    """Token ids (1, context), none of which ends a sequence in another package."""
    return np.random.default_rng(0).integers(2, VOCAB, (1, context))


def saved(
    module: CompiledModule, path: Path, rounds: RoundsForm = None, precision: str = "fp32"
) -> Path:
    """The path of the exported model, its weights in a second file beside it."""
    exported = to_onnx(module, rounds, cache=True, precision=precision, calibrate=False)
    exported.save(path, external_data_over=0)
    return path


def greedy(session: Session, context: int, rounds: Rounds = None) -> Decoder:
    """Adds the likeliest token behind a prompt of ``context``, as `Session.generate` does."""
    logits, past = session.step(prompt(context), rounds=rounds)
    decoding = session.decoding(past)
    token: Any = logits[:, -1].argmax(axis=-1)

    def decode() -> int:
        nonlocal token
        token = decoding(token).argmax(axis=-1)
        return int(token[0])

    return decode


def loaded(path: Path, context: int, rounds: Rounds = None) -> Decoder:
    session = Session(path, threads=1)
    assert session.in_place
    return greedy(session, context, rounds)
