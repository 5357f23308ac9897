"""Whether model, text and settings fit each other: everything that can be wrong beforehand."""

from __future__ import annotations

import torch

from rinsc.backends.torch.memory import require_training_memory
from rinsc.cost.flops import set_rounds
from rinsc.data.batches import TokenizedCorpus, cut_windows
from rinsc.errors import Problem, SpecError
from rinsc.graph import build_graph
from rinsc.layers.language import require_language_model
from rinsc.spec import ModelSpec
from rinsc.train.config import TrainConfig


def check_fits(
    spec: ModelSpec,
    corpus: TokenizedCorpus,
    config: TrainConfig,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> None:
    """Everything that can be wrong before the first step; nothing is allocated.

    Raises what `check_settings` and `check_memory` raise, SpecError where the text has another
    vocabulary than the model, and DataError where it does not fill one sequence.
    """
    check_settings(spec, config)
    if corpus.vocab_size != spec.vocab_size:
        message = f"the text has {corpus.vocab_size} tokens, the model {spec.vocab_size}"
        hint = f"give the model --vocab-size {corpus.vocab_size}, or use another tokenizer"
        raise SpecError(Problem("vocabulary-mismatch", message, hint=hint))
    for tokens in (corpus.train, corpus.held_out):
        cut_windows(tokens, config.sequence_length)
    check_memory(spec, config, device, processes)


def check_settings(spec: ModelSpec, config: TrainConfig) -> None:
    """Raises SpecError where the model is no language model or the settings do not fit it, and
    GraphError for rounds that it cannot run or train."""
    require_language_model(spec)
    if config.sequence_length > spec.context:
        message = f"sequence_length {config.sequence_length} is beyond the context {spec.context}"
        hint = "shorten it, or raise context"
        raise SpecError(Problem("beyond-context", message, hint=hint))
    graph = build_graph(spec)
    set_rounds(graph, config.rounds)
    for _, rounds in config.rounds_schedule:
        set_rounds(graph, rounds)


def check_memory(
    spec: ModelSpec, config: TrainConfig, device: torch.device | str = "cpu", processes: int = 1
) -> None:
    """Raises LoweringError where the device has too little memory for a part of a step, with
    weights and optimizer sharded over so many ``processes``."""
    require_training_memory(
        build_graph(spec),
        config.sequence_length,
        batch=config.batch_sequences // config.accumulate,
        rounds=max((rounds for _, rounds in config.rounds_schedule), default=config.rounds),
        precision=config.precision,
        checkpointing=config.checkpointing,
        device=device,
        processes=processes,
    )
