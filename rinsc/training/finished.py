"""A run read back: what was trained, at which rounds, for how many FLOPs; finished or not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from rinsc.backends.torch import CompiledModule, CompiledTowers, load_weights, to_torch
from rinsc.backends.torch.memory import allocation_errors
from rinsc.backends.torch.sharded_checkpoint import load_sharded
from rinsc.cost import forward_flops, stored_params
from rinsc.cost.flops import set_rounds
from rinsc.data.pairs import CaptionTokenizer, load_caption_tokenizer
from rinsc.data.tokenizer import BytePairTokenizer, check_vocabulary, load_tokenizer
from rinsc.errors import CheckpointError, DataError, plural, setting
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.graph.law import dialled_loops, loop_law
from rinsc.graph.towers_graph import by_dial, rounds_of
from rinsc.objectives import objective
from rinsc.storage.files import file_digest, read_json
from rinsc.training.checkpoint import (
    MANIFEST,
    SHARDED,
    Checkpoint,
)
from rinsc.training.config import TrainConfig
from rinsc.training.heldout import corpus_record
from rinsc.training.optimizer import build_optimizer, each_optimizer
from rinsc.training.run_folder import RunFolder
from rinsc.training.saved_model import (
    check_tokenizer_file,
    saved_rounds,
)
from rinsc.training.schedules import Depths


@dataclass(frozen=True)
class FinishedRun:
    """A run and the weights that it ended with, or those of a ``checkpoint``.

    ``training_flops`` are those that it spent in all its ``steps``, and those of the run whose
    weights it began with.
    """

    folder: RunFolder
    graph: BlockGraph
    config: TrainConfig
    steps: int
    training_flops: int
    checkpoint: Checkpoint | None = None

    @property
    def path(self) -> Path:
        """The run folder, or that of the checkpoint."""
        return self.folder.path if self.checkpoint is None else self.checkpoint.path

    @property
    def state(self) -> str:
        """What it is, where it is not the end of a run; empty where it is."""
        if self.checkpoint is None:
            return ""
        whole = self.config.steps
        state = "" if self.folder.is_finished else " of a run that is not finished"
        steps = f"after {self.steps:,} of {plural(whole, 'step', f'{whole:,}')}"
        return f"{self.checkpoint.path.name}{state}, {steps}"

    @property
    def weights(self) -> Path:
        """The file of the weights; a checkpoint of many processes has a folder."""
        if self.checkpoint is None:
            return self.folder.weights
        name = SHARDED if self.checkpoint.is_sharded else self.folder.weights.name
        return self.checkpoint.path / name

    @property
    def weights_digest(self) -> str:
        """The SHA-256 of the weights."""
        sharded = self.checkpoint is not None and self.checkpoint.is_sharded
        return file_digest(self.path / MANIFEST if sharded else self.weights)

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
        return by_dial(rounds_of(self.graph, self.config.evaluation_rounds))

    @property
    def trained_rounds(self) -> dict[str, frozenset[int]]:
        """Every number of rounds that training ran, or could draw, by repeat.

        Of a law without a largest number it is the written one.
        """
        by_config = set_rounds(self.graph, self.config.rounds)
        stages = frozenset(rounds for _, rounds in self.config.rounds_schedule)
        trained = {}
        for loop in dialled_loops(self.graph):
            drawn = frozenset(loop_law(loop).pmf or [loop.rounds])
            trained[loop.name] = stages or (
                frozenset([by_config[loop.name]]) if loop.name in by_config else drawn
            )
        return trained

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
            if self.checkpoint is not None and self.checkpoint.is_sharded:
                return self._from_shards().to(device)
            model = to_torch(self.graph.spec)
            load_weights(model, self.weights)
            return model.to(device)

    def _from_shards(self) -> CompiledModule:
        """The module with the weights of a checkpoint that many processes wrote."""
        spec = self.graph.spec
        whole: Any = objective(self.config.objective).module(spec, torch.device("cpu"))
        model = to_torch(spec)
        optimizer = build_optimizer(whole.model, whole.model.graph, self.config)
        load_sharded(self.weights, whole, each_optimizer(optimizer))
        model.load_state_dict(whole.model.state_dict())
        return model

    def tokenizer(self) -> BytePairTokenizer:
        """The tokenizer that the run was trained with; raises DataError, and CheckpointError."""
        begun = self.data_facts.get("tokenizer")
        record = begun if isinstance(begun, Mapping) else None
        tokenizer = load_tokenizer(self.folder.tokenizer, record)
        check_vocabulary(tokenizer, self.graph.spec.vocab_size)
        if not isinstance(begun, Mapping) or begun.get("sha256") != tokenizer.sha256:
            message = "the tokenizer is not the one that the run was trained with"
            raise run_error("other-tokenizer", message, self.folder.tokenizer, "restore the file")
        return tokenizer

    @property
    def data_facts(self) -> Mapping[str, object]:
        """What the run noted of its text and its tokenizer; raises CheckpointError."""
        return read_record(self.folder.data_record)

    @property
    def tokenizer_sha256(self) -> str | None:
        """What the tokenizer is known by; None where nothing says which one it is."""
        record = self.data_facts.get("tokenizer")
        return str(record.get("sha256")) if isinstance(record, Mapping) else None

    @property
    def is_training_known(self) -> bool:
        """Whether ``training_flops`` are all that the weights have seen."""
        if not self.folder.source.exists():
            return True
        return read_record(self.folder.source).get("is_training_known", True) is True

    @property
    def own_training_flops(self) -> int:
        """``training_flops`` without those of the weights that the run began with."""
        if not self.folder.source.exists():
            return self.training_flops
        before = read_record(self.folder.source).get("training_flops")
        return self.training_flops - (before if isinstance(before, int) else 0)

    def require_known_training(self) -> None:
        """Raises DataError where the run, or what it began with, does not say its FLOPs."""
        self.require_history()
        if not self.is_training_known:
            message = "the run began with a saved model, of whose training FLOPs nothing is known"
            hint = "compare runs that began with fresh weights, or with those of a run"
            raise DataError("no-history", message, place=str(self.path), hint=hint)

    def require_history(self) -> None:
        """Raises DataError where nothing says what was trained on, and for how many FLOPs."""

    @property
    def held_out(self) -> object:
        """What the run's record says of its held-out text; raises DataError."""
        return corpus_record(self.folder).get("held_out")


@dataclass(frozen=True)
class TowersRun(FinishedRun):
    """A run of two towers, which compare pictures with texts. What others say of a token is of a
    pair: one picture and one text."""

    graph: TowersGraph  # type: ignore[assignment]  # who needs to know asks for the class

    def forward_flops_per_token(
        self, rounds: Mapping[str, int], sequence_length: int | None = None
    ) -> int:
        """Of a picture and a text, and of comparing the two."""
        named = {**self.rounds, **rounds} or None
        return forward_flops(self.graph, self.graph.spec.context, rounds=named).total

    def model(self, device: torch.device) -> CompiledTowers:  # type: ignore[override]
        """The trained module; raises CheckpointError, and LoweringError where memory is short."""
        towers: Any = super().model(device)
        return cast(CompiledTowers, towers)

    def caption_tokenizer(self) -> CaptionTokenizer:
        """The tokenizer that the run was trained with; raises DataError, and CheckpointError."""
        pairing = self.graph.spec.pairing
        assert pairing is not None
        context = self.graph.spec.towers[pairing.text].context
        tokenizer = load_caption_tokenizer(self.folder.tokenizer, context)
        if self.tokenizer_sha256 not in (None, tokenizer.sha256):
            message = "the tokenizer is not the one that the run was trained with"
            raise run_error("other-tokenizer", message, self.folder.tokenizer, "restore the file")
        return tokenizer


@dataclass(frozen=True)
class SavedModel(FinishedRun):
    """A model that transformers has saved, whose training nobody noted: no steps, no FLOPs, no
    held-out text. Its sequences are as long as the context."""

    @property
    def state(self) -> str:
        return "a saved model, whose training is not known"

    @property
    def rounds(self) -> dict[str, int]:
        """Those that its config runs."""
        return by_dial(rounds_of(self.graph, saved_rounds(self.folder)))

    @property
    def trained_rounds(self) -> dict[str, frozenset[int]]:
        """Those of its config, too."""
        written = super().trained_rounds
        return {name: counts | {self.rounds[name]} for name, counts in written.items()}

    @property
    def tokenizer_sha256(self) -> str | None:
        return self.tokenizer().sha256 if self.folder.tokenizer.is_file() else None

    @property
    def is_training_known(self) -> bool:
        return False

    def tokenizer(self) -> BytePairTokenizer:
        """The tokenizer in the folder; raises DataError, and CheckpointError."""
        if not self.folder.tokenizer.is_file():
            message = "the saved model has no tokenizer.json beside it"
            hint = (
                f"name the one that it was trained with by {setting('tokenizer')}, or save it there"
            )
            raise DataError("no-tokenizer", message, place=str(self.path), hint=hint)
        check_tokenizer_file(self.folder)
        tokenizer = load_tokenizer(self.folder.tokenizer)
        check_vocabulary(tokenizer, self.graph.spec.vocab_size)
        return tokenizer

    def require_history(self) -> None:
        message = "a saved model does not say what it was trained on, nor for how many FLOPs"
        hint = f"name a text with {setting('data')}, or give the folder of the run that made it"
        raise DataError("no-history", message, place=str(self.folder.path), hint=hint)

    @property
    def held_out(self) -> object:
        self.require_history()
        return None

    @property
    def data_facts(self) -> Mapping[str, object]:
        self.require_history()
        return {}


@dataclass(frozen=True)
class SavedTowers(SavedModel, TowersRun):
    """The same of two towers, as `rinsc.import_model` writes them."""

    graph: TowersGraph  # type: ignore[assignment]  # as of a run

    @property
    def tokenizer_sha256(self) -> str | None:
        """Nothing says which one it was; the file in the folder is taken."""
        return None

    def caption_tokenizer(self) -> CaptionTokenizer:
        """The tokenizer in the folder; raises DataError."""
        if not self.folder.tokenizer.is_file():
            message = "the saved model has no tokenizer.json beside it"
            hint = "save there the one that it was trained with"
            raise DataError("no-tokenizer", message, place=str(self.path), hint=hint)
        return super().caption_tokenizer()


def read_record(path: Path) -> Mapping[str, object]:
    """A JSON object that a run wrote; raises CheckpointError."""
    try:
        values = read_json(path)
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        message = "this file of the run cannot be read"
        raise run_error("cannot-read", message, path, "restore the file")
    return values


def run_error(code: str, message: str, place: Path, hint: str) -> CheckpointError:
    return CheckpointError(code, message, place=str(place), hint=hint)
