"""What a finished run comes to, and who is told of it on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rinsc.__about__ import __version__
from rinsc.cost import forward_flops, stored_params
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import plural
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph, resolve_rounds
from rinsc.spec import ModelSpec
from rinsc.spec.reading import is_of
from rinsc.storage.files import read_json, read_regular_text
from rinsc.training.config import TrainConfig, config_to_toml
from rinsc.training.metrics import Metrics, Part
from rinsc.training.resuming import difference_of_sources
from rinsc.training.run_folder import RunFolder, check_files
from rinsc.training.warm_start import Source


@dataclass(frozen=True)
class TrainResult:
    """What a finished run comes to.

    Its quality is over the ``whole`` held-out text, or over a ``sample`` of `FINAL_TOKENS` from all
    over it where it is longer; ``held_out`` says which. It is None in results of rinsc 0.4.0.
    """

    steps: int
    tokens: int
    epochs: float
    training_flops: int
    loss_nats: float
    bits_per_byte: float
    seconds: float
    perplexity: float
    accuracy: float
    held_out: Part | None = None
    held_out_windows: int | None = None
    held_out_bytes: int | None = None

    @property
    def held_out_words(self) -> str:
        """What the quality is of: ``the whole held-out text (512 windows)``."""
        if self.held_out is None:
            return "held-out text"
        count = self.held_out_windows or 0
        windows = plural(count, "window", f"{count:,}")
        text = "the whole" if self.held_out == "whole" else "a sample of the"
        return f"{text} held-out text ({windows})"


class Observer(Protocol):
    """Is told how training goes on, for a progress bar or a tracker."""

    def started(self, config: TrainConfig, step: int) -> None: ...

    def stepped(self, metrics: Metrics) -> None: ...

    def finished(self, result: TrainResult) -> None: ...


def result_facts(spec: ModelSpec, config: TrainConfig, result: TrainResult) -> dict[str, object]:
    """What ``result.json`` says: which model was trained, how far, and what came of it."""
    graph = build_graph(spec)
    rounds = resolve_rounds(graph, config.evaluation_rounds)
    forward = forward_flops(graph, config.sequence_length, rounds=rounds or None).total
    return {
        "rinsc": __version__,
        "signature": spec.text,
        "fingerprint": fingerprint(spec),
        "seed": config.seed,
        "parameters": stored_params(graph),
        "rounds": rounds,
        "forward_flops_per_token": round(forward / config.sequence_length),
        **dataclasses.asdict(result),
    }


_WHOLE_RESULTS = ("steps", "tokens", "training_flops")


def result_from_facts(facts: Mapping[str, Any]) -> TrainResult:
    """The result in a ``result.json``, also of an earlier version; raises TypeError."""
    known = {field.name for field in dataclasses.fields(TrainResult)}
    given = {name: value for name, value in facts.items() if name in known}
    for name, value in given.items():
        if name == "held_out":
            fits = value in (None, "whole", "sample")
        elif name in ("held_out_windows", "held_out_bytes"):
            fits = value is None or type(value) is int
        else:
            fits = type(value) is int or (type(value) is float and name not in _WHOLE_RESULTS)
        if not fits:
            raise TypeError(f"'{name}' is {value!r:.40}")
    return TrainResult(**given)


def finished_result(
    folder: RunFolder,
    spec: ModelSpec,
    config: TrainConfig,
    corpus: str,
    tokenizer: BytePairTokenizer | None,
    source: Source | None = None,
) -> TrainResult | None:
    """The result in ``folder``, where it is that of this model, these settings, the text that is
    called so (it is not read) and, if one is given, this tokenizer; None for any other."""
    if not folder.is_finished:
        return None
    check_files(folder)
    try:
        begun = [read_regular_text(each) for each in (folder.model_spec, folder.config)]
        record = read_json(folder.data_record)
        result = result_from_facts(read_json(folder.result))
        words = record["tokenizer"]["sha256"]
        is_this = record["corpus"]["name"] == corpus and (
            tokenizer is None or words == tokenizer.sha256
        )
        is_this = is_this and difference_of_sources(folder, source) is None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    model, settings = begun
    is_this = is_this and is_of(model, spec) and settings == config_to_toml(config)
    return result if is_this else None
