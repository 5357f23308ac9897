"""Whether model, text and settings fit each other: everything that can be wrong beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.errors import GraphError, Problem, SpecError
from rinsc.graph import BlockGraph, build_graph, resolve_rounds
from rinsc.layers.language import require_language_model
from rinsc.spec import ModelSpec
from rinsc.train.batches import TokenizedCorpus, cut_windows
from rinsc.train.config import TrainConfig


def check_fits(spec: ModelSpec, corpus: TokenizedCorpus, config: TrainConfig) -> None:
    """Everything that can be wrong before the first step.

    Raises SpecError where the model is no language model and where text or settings do not fit it,
    GraphError for rounds that it cannot run or train, and DataError where the text does not fill
    one sequence.
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
    _require_gradients(graph, resolve_rounds(graph, config.rounds))
    for tokens in (corpus.train, corpus.held_out):
        cut_windows(tokens, config.sequence_length)


def _require_gradients(graph: BlockGraph, rounds: Mapping[str, int]) -> None:
    """Raises GraphError where a repeat cuts off what stands before it from its gradients."""
    for loop in graph.dials():
        grad = loop.options.grad
        if grad is not None and loop.options.inject is None and rounds[loop.name] > grad:
            message = f"at {rounds[loop.name]} rounds of '{loop.name}' and grad={grad}, what comes "
            message += "before the repeat gets no gradient"
            hint = f"train at {grad} rounds or less, or add inject=add, gate or concat"
            raise GraphError(Problem("no-gradient", message, place="rounds", hint=hint))
