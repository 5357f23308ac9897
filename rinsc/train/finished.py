"""A finished run read back: what was trained, at which rounds, for how many FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rinsc.backends.torch import CompiledModule, load_weights, to_torch
from rinsc.backends.torch.memory import allocation_errors
from rinsc.cost import forward_flops, stored_params
from rinsc.cost.checks import checked_sequence
from rinsc.cost.flops import set_rounds
from rinsc.data.tokenizer import BytePairTokenizer, check_vocabulary, load_tokenizer
from rinsc.errors import CheckpointError, Problem
from rinsc.files import read_json
from rinsc.graph import BlockGraph, build_graph, resolve_rounds
from rinsc.graph.law import loop_law
from rinsc.layers import require_language_model
from rinsc.spec import model_spec
from rinsc.train.config import TrainConfig, config_from_toml
from rinsc.train.depth import Depths
from rinsc.train.heldout import corpus_record
from rinsc.train.run_folder import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """A run with a result; ``training_flops`` are those that it spent in all its ``steps``."""

    folder: RunFolder
    graph: BlockGraph
    config: TrainConfig
    steps: int
    training_flops: int

    @property
    def signature(self) -> str:
        return self.graph.spec.text

    @property
    def sequence_length(self) -> int:
        return self.config.sequence_length

    @property
    def step_flops(self) -> int:
        """Training FLOPs that one step more could have cost."""
        return Depths(self.graph.spec, self.config).flops_of_one_more(self.steps)

    @property
    def stored_params(self) -> int:
        return stored_params(self.graph)

    @property
    def rounds(self) -> dict[str, int]:
        """The rounds by repeat that the run's own result was measured at."""
        return resolve_rounds(self.graph, self.config.evaluation_rounds)

    @property
    def trained_rounds(self) -> dict[str, frozenset[int]]:
        """Every number of rounds that training ran, or could draw, by repeat.

        Of a law without a largest number it is the written one.
        """
        told = set_rounds(self.graph, self.config.rounds)
        stages = frozenset(rounds for _, rounds in self.config.rounds_schedule)
        found = {}
        for loop in self.graph.dials():
            drawn = frozenset(loop_law(loop).pmf or [loop.rounds])
            found[loop.name] = stages or (
                frozenset([told[loop.name]]) if loop.name in told else drawn
            )
        return found

    def is_trained(self, rounds: Mapping[str, int]) -> bool:
        """Whether every repeat was trained at its number."""
        trained = self.trained_rounds
        return all(count in trained[name] for name, count in rounds.items())

    def forward_flops_per_token(
        self, rounds: Mapping[str, int], sequence_length: int | None = None
    ) -> int:
        """Of a sequence, by default as long as those of training, shared over its tokens.

        Rounded.
        """
        length = sequence_length or self.sequence_length
        return round(forward_flops(self.graph, length, rounds=rounds or None).total / length)

    def model(self, device: torch.device) -> CompiledModule:
        """The trained module; raises CheckpointError, and LoweringError where memory is short."""
        with allocation_errors():
            model = to_torch(self.graph.spec)
            load_weights(model, self.folder.weights)
            return model.to(device)

    def tokenizer(self) -> BytePairTokenizer:
        """The tokenizer that the run was trained with; raises DataError, and CheckpointError."""
        found = load_tokenizer(self.folder.tokenizer)
        check_vocabulary(found, self.graph.spec.vocab_size)
        begun = _read_json(self.folder.data_record).get("tokenizer")
        if not isinstance(begun, Mapping) or begun.get("sha256") != found.sha256:
            message = "the tokenizer is not the one that the run was trained with"
            raise _error("other-tokenizer", message, self.folder.tokenizer, "restore the file")
        return found

    @property
    def held_out(self) -> object:
        """What the run's record says of its held-out text; raises DataError."""
        return corpus_record(self.folder).get("held_out")


def finished_run(path: Path) -> FinishedRun:
    """The run in a folder.

    Raises CheckpointError for what is none, or is not finished, and SpecError for settings that
    cannot be those of its model.
    """
    folder = RunFolder(path)
    if not folder.model_spec.is_file():
        hint = "train one: rinsc train '(A^3)B' --data plays -o FOLDER"
        raise _error("not-a-run", "this is not the folder of a training run", path, hint)
    if not folder.is_finished:
        hint = "give its rinsc train command again: it goes on from its last checkpoint"
        raise _error("unfinished-run", "this run has not been finished", path, hint)
    graph = build_graph(model_spec(folder.model_spec))
    require_language_model(graph.spec)
    try:
        text = folder.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        message = "cannot read the settings of the run"
        raise _error("cannot-read", message, folder.config, "restore the file") from None
    result = _read_json(folder.result)
    numbers = [result.get(key) for key in ("steps", "training_flops")]
    if not all(type(number) is int and number > 0 for number in numbers):
        message = "this is not the result of a training run"
        raise _error("bad-result", message, folder.result, "restore the file")
    steps, training_flops = (int(str(number)) for number in numbers)
    config = config_from_toml(text, place=str(folder.config))
    checked_sequence(graph.spec, config.sequence_length)
    return FinishedRun(folder, graph, config, steps, training_flops)


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        message = "this file of the run cannot be read"
        raise _error("cannot-read", message, path, "restore the file")
    return found


def _error(code: str, message: str, place: Path, hint: str) -> CheckpointError:
    return CheckpointError(Problem(code, message, place=str(place), hint=hint))
