"""What a finished run comes to: its figures, and its weights as they are written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rinsc.__about__ import __version__
from rinsc.backends.hf import RinscForCausalLM, RinscForImageClassification, picture_config
from rinsc.backends.hf.folder import processor_json
from rinsc.backends.torch import CompiledTowers, save_weights, to_torch
from rinsc.backends.torch.sharded_checkpoint import full_state_dict
from rinsc.cost import forward_flops, stored_params
from rinsc.errors import RinscError, plural
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.graph.towers_graph import by_dial, rounds_of
from rinsc.layers.kind import takes_pictures
from rinsc.objectives import OBJECTIVES, Part, objective
from rinsc.scalars import exact, html_table, rounded_flops
from rinsc.spec import TowersSpec, model_spec
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import parse_json, read_json, read_regular_text, write_atomically
from rinsc.text.tokenizer_files import (
    TOKENIZER_CONFIG_FILE,
    read_declared,
    special_tokens,
    tokenizer_files,
)
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.devices import Devices
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


@dataclass(frozen=True)
class Trained:
    """A finished run: where it is, what was trained and how, and the figures it came to.

    ``was_finished`` where the run had ended before, and nothing was done.
    """

    path: Path
    spec: AnySpec
    config: TrainConfig
    result: TrainResult
    was_finished: bool = False

    def __repr__(self) -> str:
        result = self.result
        spent = f"{plural(result.steps, 'step')}, {rounded_flops(result.training_flops)}"
        return f"<Trained {self.spec.text} in {self.path}: {spent}, {result.figure_words}>"

    def _repr_html_(self) -> str:
        """Where the run is and what it came to, for notebooks."""
        return f"<div><code>{escape(self.spec.text)}</code>{html_table((), self.rows)}</div>"

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """How good the model is, what was spent, and where the run is: name and text each."""
        result, trained_for = self.result, objective(self.config.objective)
        main, *others = trained_for.figures
        quality, unit, count = result.quality, "tokens", result.tokens
        if isinstance(self.spec, TowersSpec):
            unit, count = "pairs", result.steps * self.config.batch_sequences
        return (
            (main.words, f"{main.text(quality[main.name])} on {result.held_out_words}"),
            *((other.words, other.text(quality[other.name])) for other in others),
            ("steps", exact(result.steps)),
            (unit, f"{exact(count)} ({result.epochs:.2f} epochs)"),
            ("training FLOPs", exact(result.training_flops)),
            ("seconds", f"{result.seconds:.1f}"),
            ("run folder", str(self.path)),
        )

    def facts(self) -> dict[str, object]:
        """Everything as plain data, as ``rinsc train --json`` prints it."""
        return {"run": str(self.path), **result_facts(self.spec, self.config, self.result)}


def result_facts(spec: AnySpec, config: TrainConfig, result: TrainResult) -> dict[str, object]:
    """What ``result.json`` says: which model was trained, how far, and what came of it."""
    graph = build_graph(spec)
    rounds = by_dial(rounds_of(graph, config.evaluation_rounds))
    batch = config.batch_sequences if isinstance(spec, TowersSpec) else 1
    forward = forward_flops(graph, config.sequence_length, batch=batch, rounds=rounds or None).total
    per_unit = {"forward_flops_per_token": round(forward / config.sequence_length)}
    if isinstance(spec, TowersSpec):
        per_unit = {"forward_flops_per_pair": forward // batch}
    return {
        "rinsc": __version__,
        "signature": spec.text,
        "fingerprint": fingerprint(spec),
        "seed": config.seed,
        "parameters": stored_params(graph),
        "rounds": rounds,
        **per_unit,
        **result.facts(),
    }


_WHOLE_RESULTS = ("steps", "tokens", "training_flops")


def result_from_facts(facts: Mapping[str, Any]) -> TrainResult:
    """The result in a ``result.json``, also of an earlier version; raises TypeError."""
    trained_for = facts.get("objective", "next_token")
    if trained_for not in OBJECTIVES:
        raise TypeError(f"'objective' is {trained_for!r:.40}")
    figures = [figure.name for figure in objective(trained_for).figures]
    names = {field.name for field in dataclasses.fields(TrainResult)} - {"quality", "objective"}
    values = {name: value for name, value in facts.items() if name in (*names, *figures)}
    for name, value in values.items():
        if name == "held_out":
            fits = value in (None, "whole", "sample")
        elif name in ("held_out_windows", "held_out_bytes"):
            fits = value is None or type(value) is int
        else:
            fits = type(value) is int or (type(value) is float and name not in _WHOLE_RESULTS)
        if not fits:
            raise TypeError(f"'{name}' is {value!r:.40}")
    if missing := [name for name in figures if name not in values]:
        raise TypeError(f"'{missing[0]}' is missing")
    quality = {name: values.pop(name) for name in figures}
    return TrainResult(**values, quality=quality, objective=trained_for)


def finished_result(
    folder: RunFolder,
    spec: AnySpec,
    config: TrainConfig,
    corpus: str,
    tokenizer_sha256: str | None,
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
            tokenizer_sha256 is None or record["tokenizer"]["sha256"] == tokenizer_sha256
        )
        is_this = is_this and difference_of_sources(folder, source) is None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RinscError):
        return None
    return result if is_this and begun == (spec, config) else None


PREFIX = "model."  # of the emitted module in a model of transformers


def save_trained(model: Any, folder: RunFolder, devices: Devices) -> None:
    """Write weights, config and what a tokenizer is loaded with; the old files survive a failure.

    Every process calls it where the model is sharded; the first one writes. Raises OutputError.
    """
    weights = full_state_dict(model) if devices.shard else model.state_dict()

    def write() -> None:
        plain = to_torch(model.model.spec)
        # What an objective has beside the emitted module, such as a temperature, stays in
        # checkpoints.
        own = {n.removeprefix(PREFIX): t for n, t in weights.items() if n.startswith(PREFIX)}
        plain.load_state_dict(own)
        save_weights(plain, folder.weights)
        if isinstance(plain, CompiledTowers):
            return  # their config is written where they are exported
        is_classifier = takes_pictures(plain.spec)
        if is_classifier:
            shape = read_json(folder.data_record)["corpus"]["shape"]
            pictures = picture_config(plain.spec, shape)
            write_atomically(folder.processor_config, processor_json(pictures))
        elif not hasattr(model, "config"):  # no model of transformers
            return
        config = parse_json((pictures if is_classifier else model.config).to_json_string())
        hosted = RinscForImageClassification if is_classifier else RinscForCausalLM
        # What saving a checkpoint notes in the config, whether this process saved one or not.
        config |= {
            "architectures": [hosted.__name__],
            "dtype": str(next(iter(own.values())).dtype).removeprefix("torch."),
        }
        if folder.tokenizer.is_file():  # a run from Python may have none
            declared = read_declared(folder.path)
            text = read_regular_text(folder.tokenizer)
            config |= special_tokens(text, declared).config_ids
            files = tokenizer_files(text, declared, plain.spec.context)
            write_atomically(folder.tokenizer_config, files[TOKENIZER_CONFIG_FILE])
        write_atomically(folder.hf_config, json.dumps(config, indent=2, sort_keys=True) + "\n")

    devices.on_first(write)
