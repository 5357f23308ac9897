"""What a finished run comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rinsc.__about__ import __version__
from rinsc.cost import forward_flops, stored_params
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import RinscError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph, resolve_rounds
from rinsc.objectives import OBJECTIVES, Part, objective
from rinsc.spec import ModelSpec, model_spec
from rinsc.storage.files import read_json, read_regular_text
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.resuming import difference_of_sources
from rinsc.training.run_folder import RunFolder, check_files
from rinsc.training.warm_start import Source


@dataclass(frozen=True)
class TrainResult:
    """What a finished run comes to.

    ``quality`` has the figures of the objective on the ``whole`` held-out data, or on a ``sample``
    from all over it where that is much; ``held_out`` says which. It is None in results of rinsc
    0.4.0.
    """

    steps: int
    tokens: int
    epochs: float
    training_flops: int
    loss_nats: float
    quality: Mapping[str, float]
    seconds: float
    held_out: Part | None = None
    held_out_windows: int | None = None
    held_out_bytes: int | None = None
    objective: str = "next_token"

    @property
    def bits_per_byte(self) -> float:
        """Of a run on text."""
        return self.quality["bits_per_byte"]

    @property
    def perplexity(self) -> float:
        """Of a run on text."""
        return self.quality["perplexity"]

    @property
    def accuracy(self) -> float:
        return self.quality["accuracy"]

    @property
    def held_out_words(self) -> str:
        """What the quality is of: ``the whole held-out text (512 windows)``."""
        if self.held_out is None:
            return "held-out text"
        measured_on = objective(self.objective).measured_on
        return measured_on(self.held_out_windows or 0, self.held_out)

    @property
    def figure_words(self) -> str:
        """The main figure: ``2.3457 bits per byte``."""
        figure = objective(self.objective).figures[0]
        return f"{figure.text(self.quality[figure.name])} {figure.words}"

    def facts(self) -> dict[str, object]:
        """The result as plain data, the figures by their names."""
        values = dataclasses.asdict(self)
        return {**values, **values.pop("quality")}


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
        **result.facts(),
    }


_WHOLE_RESULTS = ("steps", "tokens", "training_flops")


def result_from_facts(facts: Mapping[str, Any]) -> TrainResult:
    """The result in a ``result.json``, also of an earlier version; raises TypeError."""
    trained_for = facts.get("objective", "next_token")
    if trained_for not in OBJECTIVES:
        raise TypeError(f"'objective' is {trained_for!r:.40}")
    figures = [figure.name for figure in objective(trained_for).figures]
    known = {field.name for field in dataclasses.fields(TrainResult)} - {"quality", "objective"}
    given = {name: value for name, value in facts.items() if name in (*known, *figures)}
    for name, value in given.items():
        if name == "held_out":
            fits = value in (None, "whole", "sample")
        elif name in ("held_out_windows", "held_out_bytes"):
            fits = value is None or type(value) is int
        else:
            fits = type(value) is int or (type(value) is float and name not in _WHOLE_RESULTS)
        if not fits:
            raise TypeError(f"'{name}' is {value!r:.40}")
    if missing := [name for name in figures if name not in given]:
        raise TypeError(f"'{missing[0]}' is missing")
    quality = {name: given.pop(name) for name in figures}
    return TrainResult(**given, quality=quality, objective=trained_for)


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
        begun = model_spec(folder.model_spec), config_from_toml(read_regular_text(folder.config))
        record = read_json(folder.data_record)
        result = result_from_facts(read_json(folder.result))
        is_this = record["corpus"]["name"] == corpus and (
            tokenizer is None or record["tokenizer"]["sha256"] == tokenizer.sha256
        )
        is_this = is_this and difference_of_sources(folder, source) is None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RinscError):
        return None
    return result if is_this and begun == (spec, config) else None
