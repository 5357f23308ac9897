"""Whether model, text and settings fit each other: everything that can be wrong beforehand."""

from __future__ import annotations

import torch

from rinsc.backends.torch.memory import require_training_memory
from rinsc.cost.flops import set_rounds
from rinsc.errors import Problem, SpecError
from rinsc.graph import build_graph
from rinsc.layers.language import require_language_model
from rinsc.spec import ModelSpec
from rinsc.train.batches import TokenizedCorpus, cut_windows
from rinsc.train.config import TrainConfig


def check_fits(
    spec: ModelSpec,
    corpus: TokenizedCorpus,
    config: TrainConfig,
    device: torch.device | str = "cpu",
) -> None:
    """Everything that can be wrong before the first step; nothing is allocated.

    Raises SpecError where the model is no language model and where text or settings do not fit it,
    GraphError for rounds that it cannot run or train, DataError where the text does not fill one
    sequence, and LoweringError where the device has too little memory.
    """
    require_language_model(spec)
    problems = []
    if corpus.vocab_size != spec.vocab_size:
        message = f"the text has {corpus.vocab_size} tokens, the model {spec.vocab_size}"
        problems.append(Problem("vocabulary-mismatch", message, hint="make vocab_size the same"))
    if config.sequence_length > spec.context:
        message = f"sequence_length {config.sequence_length} is beyond the context {spec.context}"
        problems.append(Problem("beyond-context", message, hint="shorten it, or raise context"))
    if problems:
        raise SpecError(*problems)
    graph = build_graph(spec)
    set_rounds(graph, config.rounds)
    for tokens in (corpus.train, corpus.held_out):
        cut_windows(tokens, config.sequence_length)
    require_training_memory(
        graph,
        config.sequence_length,
        batch=config.batch_sequences,
        rounds=config.rounds,
        precision=config.precision,
        device=device,
    )
